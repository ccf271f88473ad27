"""Kill runs of every stage at many moments; each must go on to the very same end.

    python -m tests.kills                    30 moments uniform in time, and some in every phase
    python -m tests.kills --uniform 1 --aimed 0 --writes 2 --stages ppo

A run that was killed is started again with --ckpt_path last (without, if it had no checkpoint yet)
and held against a run that was not: weights by SHA-256, all metrics but times, all samples, all
readings of the watch. Ends with 1 if anything differs, or a checkpoint cannot be loaded.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

# Read when the libraries are loaded, so before all else.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from rlhf_forge.callbacks.checkpoints import AtomicCheckpointIO
from tests import tiny_project

ROOT = Path(__file__).parents[2]
LENGTHS = {"sft": "total_steps=60", "reward": "total_steps=60", "ppo": "total_iterations=16"}
PHASES = {
    "sft": ("update", "validation", "save"),
    "reward": ("update", "validation", "save"),
    "ppo": ("rollout", "update", "validation", "save"),
}
OTHER_DISK = Path("/dev/shm")
NEVER = ("never", 0, 0.0)
# The artefact is the last state, so that its weights tell of every iteration.
WATCH = (
    "{judge: 'tests.tiny_judges:letters', every: 2, number: 8, keep: last, action: raise_kl_coef}"
)


@dataclass(frozen=True)
class End:
    """What a run came to."""

    weights: str
    metrics: dict[str, list[tuple[int, float]]]
    samples: str
    readings: str


class Runs:
    """One stage, run again and again in a project of its own."""

    def __init__(self, project: Path, stage: str) -> None:
        self.project, self.stage = project, stage

    def folder(self, run: str) -> Path:
        """Of the stage in a run."""
        return self.project / "lightning_logs" / run / self.stage

    def start(self, run: str, death: tuple[str, int, float], tmpdir: Path | None = None) -> int:
        """Run, or go on; the exit status, -9 if it was killed."""
        (self.project / "phases.txt").unlink(missing_ok=True)
        logs = self.project / "lightning_logs/x"
        command = ["fit", "--config", f"{self.stage}.yaml", "--run", run]
        command += [f"--model.init_args.{LENGTHS[self.stage]}", "--checkpoint_every", "3"]
        command += ["--trainer.val_check_interval", "7"]
        if self.stage != "sft":
            command += ["--model.init_args.sft", str(logs / "sft/artefact")]
        if self.stage == "ppo":
            command += ["--model.init_args.reward", str(logs / "reward/artefact")]
            command += ["--watch", WATCH]
        if (self.folder(run) / "checkpoints/last.ckpt").is_file():
            command += ["--ckpt_path", "last"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
        environment |= {"TMPDIR": str(tmpdir)} if tmpdir else {}
        with (self.project / "log.txt").open("w") as log:
            return subprocess.run(
                [sys.executable, "-m", "tests.kills.child", *map(str, death), *command],
                cwd=self.project,
                env=environment,
                stdout=log,
                stderr=log,
                check=False,
            ).returncode

    def phases(self) -> list[tuple[float, str]]:
        """When what began in the last run."""
        lines = (self.project / "phases.txt").read_text().splitlines()
        return [(float(at), name) for at, name in map(str.split, lines)]

    def end(self, run: str) -> End:
        """Of a run that is over."""
        folder = self.folder(run)
        weights = sha256((folder / "artefact/adapter_model.safetensors").read_bytes()).hexdigest()
        return End(
            weights,
            metrics_in(folder),
            text_of(folder / "samples.jsonl"),
            text_of(folder / "watch.jsonl"),
        )


def text_of(path: Path) -> str:
    """Of a file that only PPO writes."""
    return path.read_text() if path.is_file() else ""


def metrics_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All that was logged but times, the last value of each step."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {
        tag: sorted({event.step: event.value for event in events.Scalars(tag)}.items())
        for tag in tags
    }


def deaths(
    stage: str, seconds: float, rng: random.Random, options: argparse.Namespace
) -> Iterator[tuple[str, int, float]]:
    """When the runs of a stage are killed."""
    for _ in range(options.uniform):
        yield "any", 1, rng.uniform(0, seconds)
    for phase in PHASES[stage]:
        for _ in range(options.aimed):
            yield phase, rng.randint(1, 2 if phase == "validation" else 5), 0.0
    for _ in range(options.writes):
        yield "save_bytes", rng.randint(2, 5), rng.random()


def tell(line: str) -> None:
    """A line as soon as it is known."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def kill_and_go_on(
    runs: Runs, run: str, death: tuple[str, int, float], whole: End, tmpdir: Path | None
) -> tuple[str, list[str]]:
    """What a run was at when it was killed, and what went wrong behind that."""
    phase, number, when = death
    status = runs.start(run, death, tmpdir)
    while status == 0:  # over before its time: this machine is faster now
        when /= 2
        run += "-"
        status = runs.start(run, (phase, number, when), tmpdir)
    if status != -9:
        return "?", [f"not killed but ended with {status}: {runs.project / 'log.txt'}"]
    at = runs.phases()[-1][1]
    wrong = []
    last = runs.folder(run) / "checkpoints/last.ckpt"
    try:
        if last.is_file():
            AtomicCheckpointIO().load_checkpoint(last)
        elif phase == "save_bytes":
            wrong.append("no checkpoint is left")
    except Exception as error:  # whatever it is, the checkpoint cannot be loaded
        wrong.append(f"checkpoint: {error}")
    if status := runs.start(run, NEVER):
        return at, [*wrong, f"did not go on: {status}: {runs.project / 'log.txt'}"]
    end = runs.end(run)
    pairs = {name: (getattr(end, name), getattr(whole, name)) for name in End.__annotations__}
    return at, wrong + [f"other {name}" for name, (a, b) in pairs.items() if a != b]


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--uniform", type=int, default=10, help="moments of each stage")
    parser.add_argument("--aimed", type=int, default=2, help="moments of each phase")
    parser.add_argument("--writes", type=int, default=4, help="in each stage's checkpoint write")
    parser.add_argument("--stages", nargs="+", default=list(PHASES), choices=list(PHASES))
    options = parser.parse_args()
    bad = 0
    seen: dict[str, Counter[str]] = {}
    tell("| stage | killed in | phase, its number, when | after it |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="kills_") as folder:
        project = tiny_project.copy_trained(Path(folder))
        for stage in options.stages:
            runs, rng = Runs(project, stage), random.Random(f"{options.seed}/{stage}")
            if runs.start("whole", NEVER):
                tell((project / "log.txt").read_text())
                return 1
            times, whole = runs.phases(), runs.end("whole")
            seen[stage] = Counter()
            for number, death in enumerate(deaths(stage, times[-1][0] - times[0][0], rng, options)):
                # Every second one with temporary files on another file system.
                tmpdir = OTHER_DISK if number % 2 and OTHER_DISK.is_dir() else None
                at, wrong = kill_and_go_on(runs, f"killed{number}", death, whole, tmpdir)
                bad += bool(wrong)
                seen[stage][at] += 1
                when = f"{death[0]}, {death[1]}, {death[2]:.3f}"
                tell(f"| {stage} | {at} | {when} | {'; '.join(wrong) or 'the very same'} |")
    killed = sum(found.total() for found in seen.values())
    tell(f"\n{killed - bad} of {killed} went on to the very same end")
    tell(json.dumps({stage: dict(found) for stage, found in seen.items()}))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
