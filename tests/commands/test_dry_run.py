"""What the dry run passes, starts; what it refuses, it refuses all at once, and touches nothing."""

import json
import os
import shlex
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from rlhf_forge import preflight
from rlhf_forge.__main__ import main
from rlhf_forge.data.render import load_template
from tests.tiny_project import PAIRS, QUIET, STAGES, told, write_base, write_pairs

pytestmark = QUIET
DRY = ["fit", "--dry-run", "--config"]
Usage = namedtuple("Usage", ["total", "used", "free"])


def refusals(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    before = state_of(Path())
    assert main([*DRY, *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert state_of(Path()) == before
    return [line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error:")]


def state_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(size, 0, size))


# -- what it passes -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_what_it_passes_starts_as_it_says(
    stage: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    def load(*_: object, **__: object) -> NoReturn:
        raise AssertionError("weights of the base were loaded")

    capsys.readouterr()
    before = state_of(trained)
    with monkeypatch.context() as patch:
        patch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
        assert main([*DRY, f"{stage}.yaml", "--run", "x"]) == 0
    assert state_of(trained) == before
    lines = dict(
        line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line
    )
    assert lines["stage"].startswith(f"{stage}, rlhf_forge.modules.{stage}.")
    assert lines["folder"] == f"lightning_logs/x/{stage}"
    assert lines["rows"].startswith("30 to train on, 10 held out, the longest of ")
    assert lines["iterations" if stage == "ppo" else "steps"] == "2, of 4 rows each"
    assert lines["next"] == f"python -m rlhf_forge fit --config {stage}.yaml --run x"
    assert main(shlex.split(lines["next"])[3:]) == 0


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_writes_as_much_as_was_said(
    stage: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[preflight.Writes] = []

    def note(*arguments: Any, **options: Any) -> preflight.Writes:
        said.append(preflight.require_space(*arguments, **options))
        return said[0]

    monkeypatch.setattr("rlhf_forge.commands.dry_run.require_space", note)
    assert main([*DRY, f"{stage}.yaml"]) == 0
    folder = Path("lightning_logs/x") / stage
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    tensors = list(checkpoint["state_dict"].values())
    for state in checkpoint["optimizer_states"][0]["state"].values():
        tensors += [state["exp_avg"], state["exp_avg_sq"]]
    for kept in checkpoint["callbacks"]["DivergenceGuard"]["kept"].values():
        tensors += [kept["weight"], kept["exp_avg"], kept["exp_avg_sq"]]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert said[0].checkpoint <= held < 1.1 * said[0].checkpoint, "heads are left out"
    artefact = sum(path.stat().st_size for path in (folder / "artefact").iterdir())
    assert said[0].artefact <= artefact < said[0].artefact + 20_000, (
        "cards and configs are left out"
    )


def test_it_says_what_a_run_would_go_on_from(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DRY, "sft.yaml", "--ckpt_path", "last"]) == 0
    last = "lightning_logs/x/sft/checkpoints/last.ckpt"
    assert f"goes on from: {last}\n" in capsys.readouterr().out


def test_it_stands_in_the_help_of_fit_and_is_no_key(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--help"]) == 0
    assert "--dry-run" in capsys.readouterr().out
    assert main(["fit", "--config", "sft.yaml", "--print_config"]) == 0
    assert "dry" not in capsys.readouterr().out
    assert told(["fit", "--dry_run"], capsys) == ("dry_run: no such key", "did you mean dry-run?")
    error, _ = told(["validate", "--dry-run", "--config", "sft.yaml"], capsys)
    assert error == "dry-run: no such key"


# -- what it refuses ------------------------------------------------------------------------------


def test_independent_mistakes_are_told_in_one_go(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("lightning_logs/x/reward")
    free(monkeypatch, 1000)
    found = refusals(["ppo.yaml", "--data.path", "nowhere.jsonl"], capsys)
    assert len(found) == 3
    assert "ppo: needs the artefact of stage reward" in found[0]
    assert found[1] == "data.path: no such file: nowhere.jsonl"
    assert found[2].startswith("lightning_logs/x/ppo: the run writes up to ")
    assert found[2].endswith("and 1 KiB are free")


def test_so_are_those_in_the_keys(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["--trainer.devices=auto", "--trainer.max_steps=5", "--checkpoint_every=0"]
    keys += ["--data.batch_size=6", "--model.init_args.objective.kl_coef=-1"]
    assert [line.split()[0] for line in refusals(["ppo.yaml", *keys], capsys)] == [
        "checkpoint_every:",
        "trainer.max_steps:",
        "trainer.devices:",
        "model.init_args.updates.minibatch_size:",
        "model.init_args.objective.kl_coef",
    ]


def test_a_number_of_the_data_that_is_out_of_range_hides_nothing_else(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mistakes = ["--data.max_length", "0", "--trainer.max_steps", "5"]
    found = refusals(["sft.yaml", *mistakes], capsys)
    assert [message.split(":")[0] for message in found] == ["trainer.max_steps", "data.max_length"]


def test_a_name_that_is_none_hides_nothing_else(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = refusals(["sft.yaml", "--name", "../x", "--data.path", "nowhere.jsonl"], capsys)
    assert [line.split(":")[0] for line in found] == ["name", "data.path"]


def test_a_hint_stands_below_its_error(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DRY, "sft.yaml", "--trainer.max_steps", "5", "--data.path", "pair.jsonl"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"] * 2
    assert lines[3] == "hint: did you mean pairs.jsonl?"


def test_a_key_that_does_not_exist_is_told_as_ever(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told([*DRY, "sft.yaml", "--rn", "x"], capsys) == ("rn: no such key", "did you mean run?")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_the_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_lost_shard(folder: Path) -> None:
    files = {"a": "model.safetensors", "b": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (no_weights, "base base: no *.safetensors file in base"),
        (half_the_weights, "base/model.safetensors: not a whole safetensors file"),
        (a_lost_shard, "base base: model-2.safetensors is missing in base, of 2 files of weights"),
        (no_config, "base base: config.json is missing"),
    ],
)
def test_a_base_that_is_not_whole_is_found(
    damage: Any, error: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(project / "base")
    [found] = refusals(["sft.yaml"], capsys)
    assert found.startswith(error)


def test_a_base_of_the_hub_is_not_downloaded(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--model.init_args.backbone.path", "nobody/not-here", "--data.path", "pair.jsonl"]
    found = refusals(["sft.yaml", *base], capsys)
    assert found == [
        "base nobody/not-here: not on this machine",
        "data.path: no such file: pair.jsonl",
    ]


def another_base(_: Path) -> list[str]:
    write_base(Path("other"), seed=1)
    return ["--model.init_args.backbone.path", "other"]


def another_template(_: Path) -> list[str]:
    text = load_template("base", "mistral").text
    Path("mine.jinja").write_text(text + "{# mine #}")
    return ["--data.chat_template", "mine.jinja"]


def another_stage(_: Path) -> list[str]:
    return ["--model.init_args.sft", "lightning_logs/x/reward/artefact"]


def a_broken_adapter(folder: Path) -> list[str]:
    (folder / "lightning_logs/x/sft/artefact/adapter_model.safetensors").write_bytes(b"half")
    return []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (another_base, "made with another base"),
        (another_template, "made with another chat template"),
        (another_stage, "a reward artefact, where one of sft is wanted"),
        (a_broken_adapter, "truncated or not a safetensors file"),
    ],
)
def test_parents_that_do_not_fit_are_found(
    change: Any, error: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = refusals(["ppo.yaml", *change(trained)], capsys)
    assert found
    assert all(error in line for line in found)


@pytest.mark.parametrize(
    ("stage", "arguments", "error"),
    [
        ("sft", ["--data.max_length", "129"], "data.max_length: must be at most 128"),
        ("ppo", ["--data.max_length", "126"], "data.max_length: must be at most 124"),
        ("reward", ["--data.validation_fraction", "0"], "data: scores are centred and scaled on"),
        ("sft", ["--data.chat_template", "tokenizer"], "data.chat_template: the tokenizer of base"),
        ("sft", ["--trainer.accelerator", "gpuu"], "trainer: You selected an invalid accelerator"),
        ("sft", ["--ckpt_path", "nowhere.ckpt"], "ckpt_path: no such file: nowhere.ckpt"),
        (
            "sft",
            ["--ckpt_path", "last", "--data.seed", "1"],
            "ckpt_path: lightning_logs/x/sft/checkpoints/last.ckpt is of a run with another config",
        ),
        ("ppo", ["--watch.judge", "nowhere:score"], "watch.judge: no function nowhere:score"),
    ],
)
def test_what_would_stop_the_run_later_is_found_now(
    stage: str,
    arguments: list[str],
    error: str,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [found] = refusals([f"{stage}.yaml", *arguments], capsys)
    assert found.startswith(error)


def test_every_record_is_read(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(Path("pairs.jsonl"), [*PAIRS, PAIRS[0] | {"chosen": ""}])
    [found] = refusals(["reward.yaml"], capsys)
    assert found.startswith("pairs.jsonl:41: empty response")


def with_bad_records(number: int) -> None:
    """On lines 1, 3, 5 and so on; the first is no JSON."""
    rows = [row for pair in PAIRS for row in (pair | {"chosen": ""}, pair)]
    write_pairs(Path("pairs.jsonl"), rows[: 2 * number])
    text = Path("pairs.jsonl").read_text()
    Path("pairs.jsonl").write_text("{" + text)


def test_all_bad_records_are_named_in_one_go_of_training_and_of_held_out_data(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_bad_records(3)
    write_pairs(Path("held_out.jsonl"), [*PAIRS[:8], PAIRS[8] | {"rejected": ""}])
    command = [*DRY, "reward.yaml", "--data.validation", "held_out.jsonl", "--trainer.max_steps=5"]
    assert main(command) == 1
    err = capsys.readouterr().err
    assert "records read" not in err
    assert [line for line in err.splitlines() if line.startswith(("error", "hint"))][2:] == [
        "error: pairs.jsonl:1: broken JSON: Expecting property name enclosed in double quotes "
        "at column 2",
        "error: pairs.jsonl:3: empty response",
        "error: pairs.jsonl:5: empty response",
        "error: held_out.jsonl:9: empty response",
        "error: data: 4 records cannot be used",
        "hint: mend them, or set data.bad_records to skip and have them counted",
    ]


def test_of_many_bad_records_the_first_are_named_and_all_counted(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_bad_records(30)
    found = refusals(["reward.yaml"], capsys)
    assert [line.split(":")[1] for line in found[:-1]] == [str(n) for n in range(1, 41, 2)]
    assert found[-1] == "data: 30 records cannot be used; the first 20 stand above"


def test_where_nothing_but_bad_records_is_left_that_is_told_too(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(Path("pairs.jsonl"), [PAIRS[0] | {"chosen": ""}] * 2)
    found = refusals(["reward.yaml"], capsys)
    assert found[:3] == [
        *(f"pairs.jsonl:{n}: empty response" for n in (1, 2)),
        "data: 2 records cannot be used",
    ]
    assert found[3].startswith("no record is left: 2 records read, 0 used")


def test_bad_records_that_are_to_be_skipped_stop_no_dry_run(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_bad_records(8)
    assert main([*DRY, "sft.yaml", "--data.bad_records", "skip"]) == 0
    assert "7 skipped: empty response" in capsys.readouterr().err


def test_broken_lines_are_found_where_there_is_no_base(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pairs.jsonl").write_text('{\n{"text": "a"}\n[]\n')
    base = ["--model.init_args.backbone.path", "nobody/not-here"]
    assert [line.split(":")[1] for line in refusals(["sft.yaml", *base], capsys)[1:]] == [
        *("1", "3"),
        " 2 records cannot be used",
    ]
    assert len(refusals(["sft.yaml", *base, "--data.bad_records", "skip"], capsys)) == 1


def test_a_file_in_the_way_of_the_runs_folder_is_found(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("lightning_logs").write_text("")
    [found] = refusals(["sft.yaml"], capsys)
    assert found.endswith("a file, where the run's folder lightning_logs/x/sft should be")


def test_a_folder_that_may_not_be_written_is_found(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    access = os.access
    # Root may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    [found] = refusals(["sft.yaml"], capsys)
    assert "may not be written" in found
