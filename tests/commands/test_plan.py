"""``plan`` and what ``fit`` tells and keeps of it, on a tiny base."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from rlhf_forge.__main__ import main
from rlhf_forge.planning import look
from rlhf_forge.planning.speed import Speed
from tests.tiny_project import QUIET, STAGES, told

pytestmark = QUIET
SPEED = Speed(learnt=3e-5, read=4e-5, prompt=1e-5, drawn=4e-3)


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_forge.planning.speed.measured_speed", lambda *_: SPEED)


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str], *, status: int) -> list[str]:
    capsys.readouterr()
    assert main(["plan", *arguments]) == status
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("stage", STAGES)
def test_the_verdict_comes_first_and_nothing_is_loaded_or_written(
    stage: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
        lines = printed(["--config", f"{stage}.yaml"], capsys, status=0)
    assert lines[0].startswith("fits: ")
    assert lines[0].endswith("free on this CPU")
    assert {line.split("  ")[0] for line in lines} >= {"base", "adapters", "optimiser", "total"}
    assert "lengths: those of pairs.jsonl, of the first 2 steps" in lines
    assert lines[-1].startswith("time: about ")
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == before


def test_without_room_it_says_so_and_names_a_change(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = ["--trainer.accelerator", "cpu"]
    lines = printed(["--config", "sft.yaml", "--memory", "1MiB", *cpu], capsys, status=1)
    assert lines[0].startswith("does not fit: ")
    assert lines[0].endswith("of 1 MiB on a CPU")
    assert lines[1].startswith("change: no setting of memory makes it fit")


@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "ppo"])
def test_a_shipped_7b_config_fits_12_gib_by_arithmetic_and_fetches_nothing(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(["--config", f"{name}.yaml", "--memory", "12GiB"], capsys, status=0)
    assert lines[0].startswith("fits: ")
    assert lines[0].endswith("of 12.0 GiB on a GPU")
    assert any(line.startswith("CUDA context") for line in lines)


@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "ppo"])
def test_a_24_gib_preset_fits_24_gib_and_not_12(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", f"24GiB/{name}.yaml", "--memory"]
    assert printed([*config, "24GiB"], capsys, status=0)[0].startswith("fits: ")
    capsys.readouterr()
    main(["plan", *config, "12GiB"])
    assert not capsys.readouterr().out.startswith("fits: ")


def test_where_the_layers_to_time_do_not_fit_on_the_disk_all_but_the_time_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> Speed:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("rlhf_forge.planning.speed.measured_speed", full)
    lines = printed(["--config", "sft.yaml"], capsys, status=0)
    assert lines[0].startswith("fits: ")
    told_why = "time: not known: no layer could be timed (I/O error: No space left on device)"
    assert lines[-1] == told_why


def test_a_command_line_without_a_config_is_told_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert told(["plan"], capsys) == (
        "plan: no config",
        "python -m rlhf_forge plan --config sft.yaml",
    )
    error, _ = told(["plan", "--config", "sft.yaml", "--memory", "much"], capsys)
    assert error.startswith("--memory: must be a size such as 12GiB")


def test_a_base_without_a_config_is_told_in_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bare").mkdir()
    over = ["--model.init_args.backbone.path", "bare"]
    error, _ = told(["plan", "--config", "sft.yaml", *over], capsys)
    assert error.startswith("base bare: ")


def test_help_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    assert "--measure" in capsys.readouterr().out


def test_fit_tells_its_plan_and_keeps_it_beside_what_it_took(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", "sft.yaml"]) == 0
    assert "memory: fits: " in capsys.readouterr().err
    kept = json.loads(Path("lightning_logs/x/sft/provenance.json").read_text())["memory"]
    assert kept["predicted"]["low"] <= kept["predicted"]["expected"] <= kept["predicted"]["high"]
    assert kept["measured"] > 0
    assert main(["report", "x"]) == 0
    assert "as planned and as measured" in Path("lightning_logs/x/report.html").read_text()


def test_fit_refuses_in_one_line_what_cannot_fit(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlhf_forge.cli.memory_available", lambda _: 2**20)
    error, hint = told(["fit", "--config", "sft.yaml"], capsys)
    assert error.startswith("memory: the run needs ")
    assert error.endswith("1 MiB are free")
    assert hint.startswith("change: ")
    assert not Path("lightning_logs").exists()


def test_measure_runs_the_longest_rows_and_tells_both_numbers(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(["--config", "sft.yaml", "--measure"], capsys, status=0)
    assert lines[-1].startswith("measured: ")
    assert "in a step on the 4 longest rows; planned for it: " in lines[-1]
    assert not Path("lightning_logs").exists()


def test_another_hub_base_fetches_its_config_alone_and_says_so(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def fetched(name: str) -> tuple[Path, bool]:
        asked.append(name)
        return project / "base", True

    monkeypatch.setattr(look, "config_folder", fetched)
    over = ["--model.init_args.backbone.path", "somebody/else"]
    capsys.readouterr()
    assert main(["plan", "--config", "sft.yaml", *over]) == 0
    out, err = capsys.readouterr()
    assert asked == ["somebody/else"]
    assert "base somebody/else: its config.json alone was fetched from the hub" in err
    assert "the data was not read (base somebody/else: not on this machine)" in out
