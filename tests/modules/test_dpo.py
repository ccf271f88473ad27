"""DPO as a person runs it: its start, what it logs, its files, how it goes on."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch import Tensor

from rlhf_forge.__main__ import main
from rlhf_forge.artefact import read_manifest
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.cli import run_stage
from rlhf_forge.modules.dpo import DPOModule
from tests.tiny_project import QUIET, told

pytestmark = QUIET
ROOT = Path("lightning_logs/x")
DPO = ["--config", "dpo.yaml"]
FIT = ["fit", *DPO]
CONFIG = """\
model:
  class_path: rlhf_forge.modules.dpo.DPOModule
  init_args:
    backbone: {path: base, precision: fp32, lora: {r: 2, alpha: 4}}
    total_steps: 4
    optimizer: {learning_rate: 1.0e-2}
    micro_batch_tokens: 128
    sampling: {max_new_tokens: 4}
data: {path: pairs.jsonl, max_length: 64, batch_size: 4, validation_fraction: 0.2}
run: x
"""


@pytest.fixture
def after_sft(trained: Path) -> Path:
    """A project whose run has an SFT adapter, and a config of DPO."""
    Path("dpo.yaml").write_text(CONFIG)
    return trained


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The role of every forward."""
    seen: list[str] = []
    states = Backbone.states

    def counted(self: Backbone, tokens: Tensor, wanted: Tensor) -> Tensor:
        seen.extend(role for role, _ in self._selection.groups)
        return states(self, tokens, wanted)

    monkeypatch.setattr(Backbone, "states", counted)
    return seen


def logged() -> dict[str, list[float]]:
    events = EventAccumulator(str(ROOT / "dpo"))
    events.Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def weights(folder: str = "dpo") -> dict[str, Tensor]:
    return load_file(ROOT / folder / "artefact" / "adapter_model.safetensors")


def test_a_run_starts_at_the_reference_learns_the_pairs_and_leaves_an_artefact(
    after_sft: Path,
) -> None:
    assert main([*FIT, "--model.init_args.total_steps", "12"]) == 0
    numbers = logged()
    assert numbers["dpo/loss"][0] == pytest.approx(0.693147, abs=1e-5)
    assert numbers["dpo/accuracy"][0] == 0.5
    assert numbers["dpo/margin"][0] == numbers["dpo/chosen_log_ratio"][0] == 0
    assert numbers["dpo/loss"][-1] < numbers["dpo/loss"][0]
    assert numbers["dpo/margin"][-1] > 0
    assert not any(numbers["dpo/skipped"])
    manifest = read_manifest(ROOT / "dpo" / "artefact")
    assert manifest.stage == "dpo"
    assert manifest.parents == {"sft": read_manifest(ROOT / "sft" / "artefact").fingerprint}
    assert len(manifest.golden) > 0


def test_the_reference_stays_as_it_is_and_the_policy_moves(after_sft: Path) -> None:
    module: Any = run_stage("fit", DPO).model
    frozen = module.backbone.weights_of("reference").pairs
    sft = load_file(ROOT / "sft" / "artefact" / "adapter_model.safetensors")
    for name, (down, up) in frozen.items():
        assert torch.equal(down, sft[f"base_model.model.{name}.lora_A.weight"])
        assert torch.equal(up, sft[f"base_model.model.{name}.lora_B.weight"])
    assert not all(torch.equal(weights()[name], sft[name]) for name in sft)


def test_a_second_run_on_the_same_pairs_never_asks_the_reference(
    after_sft: Path, forwards: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(FIT) == 0
    assert "reference" in forwards
    forwards.clear()
    capsys.readouterr()
    assert main([*FIT, "--model.init_args.beta", "0.5", "--seed_everything", "3"]) == 0
    # Golden values of the parent are asked of the reference; those are one row each.
    golden = len(read_manifest(ROOT / "sft" / "artefact").golden)
    assert forwards.count("reference") == golden
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("reference:")]
    assert len(lines) == 2, "one of the pairs trained on, one of those held out"
    assert all("lightning_logs/x/dpo.1/reference-" in line for line in lines)


@pytest.mark.parametrize(
    "settings",
    [
        ["--model.init_args.loss", "ipo", "--model.init_args.beta", "0.5"],
        ["--model.init_args.loss", "robust", "--model.init_args.label_smoothing", "0.2"],
        ["--model.init_args.label_smoothing", "0.2"],
        ["--model.init_args.reference", "base"],
        ["--model.init_args.backbone.precision", "bf16", "--model.init_args.reference", "base"],
        ["--data.batch_size", "48", "--model.init_args.total_steps", "2"],
    ],
    ids=" ".join,
)
def test_every_kind_of_run_passes_its_self_test_and_learns(
    settings: list[str], after_sft: Path
) -> None:
    assert main([*FIT, *settings]) == 0
    numbers = logged()
    assert numbers["dpo/loss"][-1] < numbers["dpo/loss"][0]
    assert numbers["dpo/accuracy"][0] == pytest.approx(0.5, abs=0.3)


def test_a_reference_that_is_not_the_policy_is_refused_before_the_first_step(
    after_sft: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = DPOModule._reference_of

    def off(self: DPOModule, *args: Any, **options: Any) -> Tensor:
        return read(self, *args, **options) + 1e-3

    monkeypatch.setattr(DPOModule, "_reference_of", off)
    error, hint = told(FIT, capsys)
    assert error.startswith("self-test: an implied reward is")
    assert hint.startswith("likely causes:")


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("beta", "0", "model.init_args.beta must be above 0 and finite, got 0.0"),
        ("label_smoothing", "0.5", "model.init_args.label_smoothing must be in [0, 0.5), got 0.5"),
        ("loss", "robust", "label_smoothing must be above 0 where loss is robust, got 0.0"),
        ("loss", "hinge", "model.init_args.loss: must be one of sigmoid, ipo, robust, got hinge"),
        ("total_steps", "0", "model.init_args.total_steps must be 1 or more, got 0"),
    ],
)
def test_a_setting_that_is_none_is_one_line(
    key: str, value: str, error: str, after_sft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told([*FIT, f"--model.init_args.{key}", value], capsys)[0].endswith(error)


def test_a_run_without_validation_asks_nothing_of_held_out_pairs(
    after_sft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--trainer.limit_val_batches", "0"]) == 0
    assert len(list((ROOT / "dpo").glob("reference-*"))) == 1
    assert main(FIT) == 0
    assert len(list((ROOT / "dpo").glob("reference-*"))) == 1, "that of the other is in dpo.1"


@pytest.mark.parametrize(("word", "prefix"), [("validate", "val"), ("test", "test")])
def test_held_out_metrics_are_those_of_all_held_out_pairs(
    word: str, prefix: str, after_sft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(FIT) == 0
    found = []
    for size in ("4", "1"):
        capsys.readouterr()
        assert main([word, *DPO, "--data.batch_size", size]) == 0
        rows = (line.split() for line in capsys.readouterr().out.splitlines())
        found.append({name: float(value) for name, value in rows})
    assert found[0].keys() == {f"{prefix}/loss", f"{prefix}/accuracy"}
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_predict_writes_responses(after_sft: Path) -> None:
    assert main(FIT) == 0
    assert main(["predict", *DPO]) == 0
    rows = [json.loads(x) for x in (ROOT / "dpo" / "predictions.jsonl").read_text().splitlines()]
    assert rows
    assert rows[0].keys() == {"prompt", "response", "finished"}


def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    after_sft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*FIT, "--run", "whole", "--model.init_args.sft", f"{ROOT}/sft/artefact"]) == 0
    settings = ["--model.init_args.sft", f"{ROOT}/sft/artefact", "--checkpoint_every", "1"]
    step = DPOModule.training_step
    steps: list[int] = []

    class KilledError(Exception):
        pass

    def dies(self: DPOModule, batch: Any, batch_idx: int) -> None:
        steps.append(batch_idx)
        if len(steps) == 3:
            raise KilledError
        step(self, batch, batch_idx)

    monkeypatch.setattr(DPOModule, "training_step", dies)
    with pytest.raises(KilledError):
        main([*FIT, *settings])
    assert main([*FIT, *settings, "--ckpt_path", "last"]) == 0
    assert len(steps) == 5
    whole = load_file("lightning_logs/whole/dpo/artefact/adapter_model.safetensors")
    assert all(torch.equal(whole[name], tensor) for name, tensor in weights().items())


def test_other_commands_take_the_artefact(
    after_sft: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(FIT) == 0
    artefact = str(ROOT / "dpo" / "artefact")
    assert main(["export", artefact, "exported"]) == 0
    assert Path("exported/adapter_model.safetensors").is_file()
    assert main(["export", artefact, "merged", "--merge", "true"]) == 0
    assert Path("merged/config.json").is_file()
    reward = str(ROOT / "reward" / "artefact")
    words = [artefact, str(ROOT / "sft" / "artefact"), "pairs.jsonl", reward]
    capsys.readouterr()
    assert main(["evaluate", *words, "--number", "4", "--max_new_tokens", "4"]) == 0
    assert "policy wins" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    assert main(["chat", artefact, "--max_new_tokens", "4"]) == 0
    assert "1 line, answered by dpo" in capsys.readouterr().err


def test_the_metrics_of_a_step_are_its_own_names(after_sft: Path) -> None:
    assert main(FIT) == 0
    names = {tag for tag in logged() if tag.startswith("dpo/")}
    assert names == {
        "dpo/loss",
        "dpo/accuracy",
        "dpo/margin",
        "dpo/chosen_log_prob",
        "dpo/chosen_log_ratio",
        "dpo/grad_norm",
        "dpo/skipped",
    }
