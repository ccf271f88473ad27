"""Ctrl-C and SIGTERM, sent to a running fit: it saves, leaves, and goes on to the same weights."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from rlhf_forge.__main__ import main
from rlhf_forge.callbacks.checkpoints import AtomicCheckpointIO
from rlhf_forge.modules.sft import SFTModule
from tests.tiny_project import QUIET

pytestmark = QUIET
PATIENCE = 600.0
TOTAL = 400
FIT = ["fit", "--config", "sft.yaml", "--model.init_args.total_steps", str(TOTAL)]
STOPPED = Path("lightning_logs/stopped/sft")
LAST = STOPPED / "checkpoints" / "last.ckpt"


def signalled(number: signal.Signals) -> tuple[int, str]:
    """Start a run, send it a signal behind its first checkpoint; its status and what it said."""
    arguments = [*FIT, "--run", "stopped", "--checkpoint_every", "2"]
    with Path("stderr.txt").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_forge", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
    end = time.monotonic() + PATIENCE
    while not LAST.is_file():
        assert process.poll() is None, Path("stderr.txt").read_text()
        assert time.monotonic() < end, "no checkpoint"
        time.sleep(0.005)
    process.send_signal(number)
    status = process.wait(PATIENCE)
    return status, Path("stderr.txt").read_text()


def steps_in_checkpoint() -> int:
    checkpoint = AtomicCheckpointIO().load_checkpoint(LAST)
    return int(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"])


def adapter_hash(stage: Path) -> str:
    return sha256((stage / "artefact" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Lightning leaves a process deaf to Ctrl-C."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)


def signalling(number: signal.Signals, *, times: int, patch: pytest.MonkeyPatch) -> None:
    """The signal comes in the middle of the fifth step."""
    step = SFTModule.training_step

    def noisy(self: SFTModule, batch: Any, batch_idx: int) -> Any:
        outputs = step(self, batch, batch_idx)
        for _ in range(times if batch_idx == 4 else 0):
            signal.raise_signal(number)
        return outputs

    patch.setattr(SFTModule, "training_step", noisy)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_running_step_is_finished_and_saved_between_checkpoints(
    number: signal.Signals, status: int, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalling(number, times=1, patch=monkeypatch)
    assert main([*FIT, "--run", "stopped", "--checkpoint_every", "1000"]) == status
    assert steps_in_checkpoint() == 5
    events = EventAccumulator(str(STOPPED))
    events.Reload()
    assert {event.step for event in events.Scalars("sft/loss")} == set(range(5))
    assert not (STOPPED / "artefact").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_validation_that_is_due_is_waited_for(
    number: signal.Signals, status: int, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalling(number, times=1, patch=monkeypatch)
    fit = [*FIT, "--run", "stopped", "--checkpoint_every", "1000"]
    assert main([*fit, "--trainer.val_check_interval", "5"]) == status
    assert steps_in_checkpoint() == 5
    events = EventAccumulator(str(STOPPED))
    events.Reload()
    assert [event.step for event in events.Scalars("val/loss")] == [4]
    assert {event.step for event in events.Scalars("sft/loss")} == set(range(5))


def test_a_second_ctrl_c_does_not_wait_for_the_step(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalling(signal.SIGINT, times=2, patch=monkeypatch)
    assert main([*FIT, "--run", "stopped", "--checkpoint_every", "3"]) == 130
    assert steps_in_checkpoint() == 3


def test_a_finished_run_leaves_ctrl_c_as_it_was(project: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert main(["fit", "--config", "sft.yaml"]) == 0
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow  # processes that train
@pytest.mark.parametrize(
    ("number", "status", "told"),
    [
        (signal.SIGINT, 130, ["stopping behind this step", "stopped"]),
        (signal.SIGTERM, 143, []),
    ],
)
def test_a_run_that_is_told_to_stop_saves_and_goes_on_to_the_very_same_adapter(
    number: signal.Signals, status: int, told: list[str], project: Path
) -> None:
    ended, said = signalled(number)
    assert ended == status, said
    assert "Traceback" not in said
    assert all(line in said for line in [*told, "hint: the same with --ckpt_path last goes on"])
    assert not (STOPPED / "artefact").exists()
    assert 2 <= steps_in_checkpoint() < TOTAL
    resume = [*FIT, "--run", "stopped", "--checkpoint_every", "1000", "--ckpt_path", "last"]
    assert main(resume) == 0
    assert main([*FIT, "--run", "whole", "--checkpoint_every", "1000"]) == 0
    assert adapter_hash(STOPPED) == adapter_hash(Path("lightning_logs/whole/sft"))
