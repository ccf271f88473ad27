"""kill -9 in the middle of a run, then the same command with --ckpt_path last."""

import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest

from rlhf_forge.__main__ import main
from rlhf_forge.callbacks.checkpoints import AtomicCheckpointIO
from tests import several, watching
from tests.tiny_project import QUIET

pytestmark = QUIET
PATIENCE = 600.0
ROOT = Path(__file__).parents[1]
SFT = ["fit", "--config", "sft.yaml", "--model.init_args.total_steps", "200"]
FROM_SFT = ["--model.init_args.sft", "lightning_logs/x/sft/artefact"]
REWARD = ["fit", "--config", "reward.yaml", "--model.init_args.total_steps", "200", *FROM_SFT]
PPO = [
    *("fit", "--config", "ppo.yaml", "--model.init_args.total_iterations", "40", *FROM_SFT),
    *("--model.init_args.reward", "lightning_logs/x/reward/artefact"),
]


def started(arguments: list[str]) -> "subprocess.Popen[bytes]":
    with Path("stderr.txt").open("wb") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "rlhf_forge", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=told,
        )


def run(arguments: list[str]) -> None:
    process = started(arguments)
    assert process.wait(PATIENCE) == 0, Path("stderr.txt").read_text()


def kill_in_the_middle(arguments: list[str], stage: Path, *, delay: float) -> None:
    """Start a run, and kill it some seconds after its first checkpoint is there."""
    process = started(arguments)
    last = stage / "checkpoints" / "last.ckpt"
    end = time.monotonic() + PATIENCE
    while not last.is_file():
        assert process.poll() is None, Path("stderr.txt").read_text()
        assert time.monotonic() < end, "no checkpoint"
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    assert process.wait() == -9, "the run was over before it could be killed: make it longer"
    assert not (stage / "artefact").exists()


def steps_of(stage: Path) -> int:
    checkpoint = AtomicCheckpointIO().load_checkpoint(stage / "checkpoints" / "last.ckpt")
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return int(progress["total"]["processed"])


def adapter_hash(stage: Path) -> str:
    return sha256((stage / "artefact" / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_a_killed_run_goes_on_to_the_very_same_adapter(project: Path) -> None:
    whole, killed = (Path("lightning_logs") / run / "sft" for run in ("whole", "killed"))
    short = ["fit", "--config", "sft.yaml", "--model.init_args.total_steps", "40"]
    arguments = [*short, "--run", "killed", "--checkpoint_every", "3"]
    assert several.fit(arguments, watching.killed_in_a_step, processes=1) == [-signal.SIGKILL]
    assert steps_of(killed) == 18
    assert not (killed / "artefact").exists()
    assert main([*arguments, "--ckpt_path", "last"]) == 0
    assert main([*short, "--run", "whole"]) == 0
    assert adapter_hash(killed) == adapter_hash(whole)


@pytest.mark.slow  # three processes that train
@pytest.mark.parametrize(
    ("stage", "command", "total", "delay"),
    [("sft", SFT, 200, 0.2), ("reward", REWARD, 200, 0.1), ("ppo", PPO, 40, 0.2)],
)
def test_processes_that_were_killed_and_that_were_not_end_with_the_very_same_adapter(
    stage: str, command: list[str], total: int, delay: float, trained: Path
) -> None:
    whole, killed = (Path("lightning_logs") / run / stage for run in ("whole", "killed"))
    arguments = [*command, "--run", "killed", "--checkpoint_every", "3"]
    kill_in_the_middle(arguments, killed, delay=delay)
    assert 0 < steps_of(killed) < total
    run([*arguments, "--ckpt_path", "last"])
    run([*command, "--run", "whole"])
    assert adapter_hash(killed) == adapter_hash(whole)


@pytest.mark.slow  # six processes that train
def test_kills_in_the_middle_of_a_checkpoint_and_of_a_rollout_are_gone_on_from() -> None:
    command = [sys.executable, "-m", "tests.kills", "--stages", "ppo"]
    command += ["--uniform", "0", "--aimed", "1", "--writes", "1"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "5 of 5 went on to the very same end" in found.stdout
