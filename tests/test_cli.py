"""What Lightning's words do here: where runs land, how they go on, what is kept."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from rlhf_forge.__main__ import main
from rlhf_forge.cli import parsed_stage
from tests.backbone.test_bitsandbytes_guard import AVX512_BF16_CPU, FAKE_KERNELS
from tests.tiny_project import QUIET, STAGES, told

pytestmark = QUIET
FIT = ["fit", "--config", "sft.yaml"]
LAST = Path("lightning_logs/x/sft/checkpoints/last.ckpt")
# 30 of the 40 pairs train: in batches of 5 a round of the data is 6 steps.
STEPS_OF_A_ROUND = 6


class KilledError(Exception):
    """Stands for the end of the process in the middle of a run."""


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_file(f"lightning_logs/{run}/sft/artefact/adapter_model.safetensors")


def stop_after(steps: int, patch: pytest.MonkeyPatch) -> None:
    """Training dies when it begins the step after ``steps``."""
    from rlhf_forge.modules.sft import SFTModule

    step = SFTModule.training_step

    def stopping(self: SFTModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == steps:
            raise KilledError
        step(self, batch, batch_idx)

    patch.setattr(SFTModule, "training_step", stopping)


# -- going on -------------------------------------------------------------------------------------


def test_a_round_of_the_data_is_as_long_as_these_tests_say(project: Path) -> None:
    assert len(parsed_stage(FIT[1:]).data().train.examples) == 5 * STEPS_OF_A_ROUND


@pytest.mark.parametrize("stopped", [STEPS_OF_A_ROUND, STEPS_OF_A_ROUND - 2])
@pytest.mark.parametrize("by_name", [True, False])
def test_a_run_that_goes_on_ends_with_the_very_same_weights(
    stopped: int, by_name: bool, project: Path
) -> None:
    fit = [*FIT, "--model.init_args.total_steps", "8", "--data.batch_size", "5"]
    fit += ["--checkpoint_every", str(stopped)]
    assert main([*fit, "--run", "whole"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after(stopped, patch)
        with pytest.raises(KilledError):
            main(fit)
    checkpoint = "last" if by_name else str(LAST)
    assert main([*fit, "--ckpt_path", checkpoint]) == 0
    whole, resumed = weights("whole"), weights("x")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_on_the_border_of_a_round_goes_on_with_the_next_rows(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_forge.modules.sft import SFTModule

    fit = [*FIT, "--model.init_args.total_steps", "2", "--data.batch_size", "30"]
    fit += ["--checkpoint_every", "1"]
    seen: list[list[int]] = []
    step = SFTModule.training_step

    def note(self: SFTModule, batch: Any, batch_idx: int) -> None:
        seen.append(batch.positions.tolist())
        step(self, batch, batch_idx)

    monkeypatch.setattr(SFTModule, "training_step", note)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KilledError):
            main(fit)
    assert main([*fit, "--ckpt_path", "last"]) == 0
    assert seen == [list(range(30)), list(range(30, 60))]


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_behind_its_last_step_still_ends_with_the_same_artefact(
    stage: str, trained: Path
) -> None:
    from rlhf_forge.artefact import read_manifest

    artefact = Path(f"lightning_logs/x/{stage}/artefact")
    before = read_manifest(artefact)
    for path in artefact.iterdir():
        path.unlink()
    assert main(["fit", "--config", f"{stage}.yaml", "--ckpt_path", "last"]) == 0
    after = read_manifest(artefact)
    assert after.golden == before.golden
    assert (after.reward_mean, after.reward_std) == (before.reward_mean, before.reward_std)
    assert (after.reward_std != 1.0) == (stage == "reward")
    config = yaml.safe_load(Path(f"lightning_logs/x/{stage}/config.yaml").read_text())
    assert config["ckpt_path"] is None, "a run from this config would train nothing"


def test_a_finished_run_is_not_run_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artefact = Path("lightning_logs/x/sft/artefact/forge.json")
    before = artefact.stat().st_mtime_ns
    assert main([*FIT, "--ckpt_path", "last"]) == 0
    assert "sft: finished before, not run again" in capsys.readouterr().err
    assert artefact.stat().st_mtime_ns == before


def test_a_finished_run_is_not_taken_for_a_longer_one(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = [*FIT, "--ckpt_path", "last", "--model.init_args.total_steps", "3"]
    error, hint = told(fit, capsys)
    assert error == "ckpt_path: that run ended after 2 steps, so it does not go on to 3"
    assert hint


def test_last_is_told_if_there_is_none(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error, hint = told([*FIT, "--ckpt_path", "last"], capsys)
    assert error == f"fit: nothing to start from: no {LAST}"
    assert hint


def test_a_missing_checkpoint_is_told_before_the_data_is_read(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told([*FIT, "--ckpt_path", "nowhere.ckpt"], capsys)
    assert error == "ckpt_path: no such file: nowhere.ckpt"
    assert hint == f"--ckpt_path last means {LAST}"


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_checkpoint_is_told(
    share: float, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = LAST.read_bytes()
    Path("cut.ckpt").write_bytes(whole[: int(share * len(whole))])
    error, _ = told([*FIT, "--ckpt_path", "cut.ckpt"], capsys)
    assert error == "cut.ckpt: truncated, or not a checkpoint of rlhf_forge"


def test_a_checkpoint_of_another_stage_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "lightning_logs/x/reward/checkpoints/last.ckpt"
    assert "checkpoint" in told([*FIT, "--ckpt_path", other], capsys)[0]


@pytest.mark.parametrize("word", ["validate", "test", "predict"])
def test_without_a_checkpoint_nothing_is_measured(
    word: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told([word, "--config", "sft.yaml"], capsys)
    assert error == f"{word}: nothing to start from: no {LAST}"
    assert "run fit" in hint


# -- what is kept ---------------------------------------------------------------------------------


def test_a_second_fit_keeps_the_first_one(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = weights("x")
    assert main([*FIT, "--seed_everything", "1"]) == 0
    assert "what was there is kept as lightning_logs/x/sft.1" in capsys.readouterr().err
    kept = load_file("lightning_logs/x/sft.1/artefact/adapter_model.safetensors")
    assert all(torch.equal(first[name], kept[name]) for name in first)
    assert not all(torch.equal(first[name], weights("x")[name]) for name in first)


def test_a_trial_of_one_batch_leaves_a_finished_run_alone(trained: Path) -> None:
    before = {path: path.read_bytes() for path in Path("lightning_logs").rglob("*.safetensors")}
    assert main([*FIT, "--trainer.fast_dev_run", "true"]) == 0
    assert {p: p.read_bytes() for p in Path("lightning_logs").rglob("*.safetensors")} == before


def test_the_runs_config_trains_the_same_again(trained: Path) -> None:
    config = "lightning_logs/x/sft/config.yaml"
    assert yaml.safe_load(Path(config).read_text())["ckpt_path"] is None
    assert main(["fit", "--config", config, "--run", "again"]) == 0
    first, second = weights("x"), weights("again")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_runs_config_stays_that_of_its_training(trained: Path) -> None:
    before = Path("lightning_logs/x/sft/config.yaml").read_text()
    assert main([*FIT, "--ckpt_path", "last"]) == 0
    assert main(["validate", "--config", "sft.yaml", "--data.batch_size", "2"]) == 0
    assert Path("lightning_logs/x/sft/config.yaml").read_text() == before


# -- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "source"),
    [
        ("data.kind", "pairs", "the class of the model"),
        ("data.tokenizer", "elsewhere", "model.init_args.backbone.path"),
        ("model.init_args.seed", "5", "seed_everything"),
        ("model.seed", "5", "seed_everything"),
    ],
)
def test_a_key_that_follows_from_another_is_refused_and_never_silently_beaten(
    key: str, value: str, source: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = f"{key}: follows from {source}, so it cannot be set by itself"
    assert told([*FIT, f"--{key}", value], capsys)[0] == error
    assert told([*FIT, f"--{key}={value}"], capsys)[0] == error


def test_such_a_key_is_refused_in_a_file_too(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("more.yaml").write_text("data: {kind: pairs}\n")
    assert "data.kind: follows from" in told([*FIT, "--config", "more.yaml"], capsys)[0]


def test_what_follows_has_the_value_of_its_source(project: Path) -> None:
    config = parsed_stage([*FIT[1:], "--seed_everything", "7"]).config
    assert config.model.init_args.seed == 7
    assert config.data.tokenizer == config.model.init_args.backbone.path == "base"
    assert config.data.kind == "demonstrations"


# -- what is said ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "following"), [("sft", "reward"), ("reward", "ppo")])
def test_fit_ends_with_where_things_are_and_the_next_command(
    stage: str, following: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    for name in STAGES:
        Path(f"{name}.yaml").rename(f"mine/{name}.yaml")
    capsys.readouterr()
    assert main(["fit", "--config", f"mine/{stage}.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    folder = f"lightning_logs/x/{stage}"
    assert err.splitlines()[-3:] == [
        f"artefact: {folder}/artefact",
        f"logs: {folder}",
        f"next: python -m rlhf_forge fit --config mine/{following}.yaml --run x",
    ]


def test_the_next_command_of_a_shipped_config_is_its_neighbour() -> None:
    stage = parsed_stage(["--config", "quickstart/sft.yaml"])
    words = "python -m rlhf_forge fit --config quickstart/reward.yaml --run quickstart"
    assert stage.command_of("reward") == words


def test_after_ppo_comes_the_chat(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parsed_stage(["--config", "ppo.yaml"]).say_next()
    words = "next: python -m rlhf_forge chat lightning_logs/x/ppo/artefact\n"
    assert capsys.readouterr().err == words


@pytest.mark.parametrize("word", ["validate", "test"])
@pytest.mark.parametrize("stage", STAGES)
def test_held_out_metrics_are_data_on_stdout(
    word: str, stage: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word, "--config", f"{stage}.yaml"]) == 0
    out, err = capsys.readouterr()
    rows = dict(line.split() for line in out.splitlines())
    prefix = "val" if word == "validate" else "test"
    assert f"{prefix}/{'score' if stage == 'ppo' else 'loss'}" in rows
    assert all(float(value) == float(value) for value in rows.values())
    assert "data:" not in err


@pytest.mark.parametrize("stage", STAGES)
def test_predict_writes_a_line_for_every_held_out_record(
    stage: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--config", f"{stage}.yaml"]) == 0
    path = Path(f"lightning_logs/x/{stage}/predictions.jsonl")
    assert capsys.readouterr().err.endswith(f"predictions: {path}\n")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len(parsed_stage(["--config", f"{stage}.yaml"]).data().held_out)
    assert rows[0].keys() >= ({"chosen_score"} if stage == "reward" else {"response"})


# -- what a config adds ---------------------------------------------------------------------------


def test_a_logger_and_a_callback_of_the_config_are_used(project: Path) -> None:
    Path("more.yaml").write_text(
        "trainer:\n"
        "  logger: {class_path: CSVLogger, init_args: {save_dir: csv, name: '', version: ''}}\n"
        "  callbacks: [{class_path: LearningRateMonitor}]\n"
    )
    assert main([*FIT, "--config", "more.yaml"]) == 0
    header = Path("csv/metrics.csv").read_text().splitlines()[0]
    assert "sft/loss" in header
    assert "lr-AdamW" in header
    assert Path("lightning_logs/x/sft/config.yaml").is_file()


def test_a_plugin_of_the_config_is_kept_beside_ours(project: Path) -> None:
    Path("more.yaml").write_text(
        "trainer: {plugins: [{class_path: lightning.pytorch.plugins.environments."
        "LightningEnvironment}]}\n"
    )
    assert main([*FIT, "--config", "more.yaml"]) == 0
    assert LAST.is_file()


@pytest.mark.slow  # a fresh interpreter that trains
def test_no_stage_lets_a_kernel_of_the_hub_be_fetched(project: Path) -> None:
    Path("kernels.py").write_text(FAKE_KERNELS)
    code = (
        f"import sys\nsys.path.insert(0, {str(project)!r})\n{AVX512_BF16_CPU}\n"
        "from rlhf_forge.__main__ import main\n"
        f"sys.exit(main({FIT!r}))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "ASKED" in result.stdout, "bitsandbytes was never imported: the test shows nothing"
    assert "CALLED" not in result.stdout
