"""The ways to start several processes that docs/scale.md names, each executed on this machine."""

import shlex
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from rlhf_forge.__main__ import main
from tests import several, tiny_project
from tests.tiny_project import told

pytestmark = tiny_project.QUIET
PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
ON_CPU = ["--trainer.accelerator", "cpu"]
PATIENCE = 600.0


def line_of_the_page(beginning: str) -> list[str]:
    [line] = [line for line in PAGE.read_text().splitlines() if line.startswith(beginning)]
    return shlex.split(line)


def adapter_hash(run: str) -> str:
    path = Path(f"lightning_logs/{run}/sft/artefact/adapter_model.safetensors")
    return sha256(path.read_bytes()).hexdigest()


def trained_by(command: list[str], run: str) -> str:
    """Hash of what a command trained; nobody else wrote into its run."""
    process = subprocess.run(
        [sys.executable, *command, "--run", run, *ON_CPU],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr.count("data: 30 to train on") == 1, "each process speaks for itself"
    return adapter_hash(run)


def trained_in_two(**options: object) -> str:
    assert several.fit(["fit", "--config", "sft.yaml", "--run", "two"], **options) == [0, 0]  # type: ignore[arg-type]
    return adapter_hash("two")


def test_the_line_with_torchrun_trains(project: Path) -> None:
    name, *rest = line_of_the_page("torchrun --standalone")
    assert name == "torchrun"
    found = trained_by(["-m", "torch.distributed.run", *rest], "torchrun")
    assert found == trained_in_two()
    assert main(["fit", "--config", "sft.yaml", "--run", "one"]) == 0
    assert found != adapter_hash("one"), "the rows were shared, so sums are rounded otherwise"


def test_the_line_without_it_starts_the_second_process_itself(project: Path) -> None:
    name, *rest = line_of_the_page("python -m rlhf_forge fit")
    assert name == "python"
    assert trained_by(rest, "alone") == trained_in_two()


def test_tasks_of_slurm_find_each_other(project: Path) -> None:
    by_torchrun = trained_in_two()
    assert trained_in_two(as_started=several.by_slurm) == by_torchrun


def test_another_number_than_was_started_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    error, hint = told(["fit", "--config", "sft.yaml"], capsys)
    assert error == (
        "WORLD_SIZE: 2 processes were started, and trainer.devices x trainer.num_nodes is 1"
    )
    assert "docs/scale.md" in hint


@pytest.mark.parametrize("devices", ["0,1", "[0, 1]"])
def test_a_list_of_devices_is_one_of_gpus(
    devices: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, _ = told(["fit", "--config", "sft.yaml", "--trainer.devices", devices, *ON_CPU], capsys)
    assert error.startswith("trainer: `devices` selected with `CPUAccelerator` should be an int")


def test_a_command_that_does_more_than_train_one_stage_starts_no_second_process(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told(["fit", "--config", "sft.yaml", "--trainer.devices", "2", *ON_CPU], capsys)
    assert error == (
        "trainer.devices: 2 processes train one stage, started by a command of its own"
    )
    assert hint.startswith("torchrun --standalone --nproc_per_node 2 -m -- rlhf_forge fit")
    assert not Path("lightning_logs").exists()
