"""How fast SFT, reward training and PPO are on this machine's CPU.

    python benchmarks/throughput.py --threads 2

Real modules in a real Trainer on generated data, start-up and the first steps left out. Prints a
table and writes benchmarks/results/cpu-<date>.json. benchmarks/README.md says how to read it.
"""

import argparse
import json
import logging
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from typing_extensions import override
from work import SIZES, Size, write_work

from rlhf_forge.backbone.config import BackboneConfig, Precision
from rlhf_forge.backbone.packing import pack
from rlhf_forge.backbone.scoring import row_ends
from rlhf_forge.callbacks.artefact_writer import ArtefactWriter
from rlhf_forge.data.format import Kind
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.reward import RewardModule
from rlhf_forge.modules.settings import OptimizerSettings, RolloutSettings, UpdateSettings
from rlhf_forge.modules.sft import SFTModule

RESULTS = Path(__file__).parent / "results"
STAGES = ("sft", "reward", "ppo")
PHASES = ("generate", "score", "update")


class Clock(Callback):
    """Wall and CPU seconds, real tokens, and padding computed, of all steps behind the first."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.wall = self.cpu = 0.0
        self.losses: list[float] = []
        self.before = resident_mib()
        self.steps = self.rows = self.real = self.computed = self.padding = 0
        self.phases = dict.fromkeys(PHASES, 0.0)
        self._started = (0.0, 0.0)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        backbone: Any = pl_module.backbone
        states = backbone.states

        def counted(tokens: Tensor, wanted: Tensor) -> Tensor:
            computed, shared = tokens.numel(), 0
            if not backbone.pads:
                packed = pack(tokens, wanted)
                computed, shared = len(packed.source), packed.shared
            self.computed += computed
            self.padding += computed + shared - sum(row_ends(wanted))
            found: Tensor = states(tokens, wanted)
            return found

        backbone.states = counted

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start()

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if batch_idx < self.warm_up:
            self._start()
            return
        self.wall = time.perf_counter() - self._started[0]
        self.cpu = time.process_time() - self._started[1]
        self.steps += 1
        self.losses.append(float(trainer.callback_metrics.get(f"{pl_module.stage}/loss", 0.0)))
        self.rows += len(batch.positions)
        self.real += int(batch.mask.sum())
        if isinstance(pl_module, PPOModule):
            length = float(trainer.callback_metrics["rollout/length"])
            self.real += round(length * len(batch.positions))
            for phase in PHASES:
                self.phases[phase] += pl_module.seconds[phase]

    def _start(self) -> None:
        self.computed = self.padding = 0
        self._started = (time.perf_counter(), time.process_time())


def main() -> None:
    """Measure, print, write."""
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    load_before = os.getloadavg()[0]
    rows = []
    for name in arguments.sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.work or temporary
            if not arguments.work:
                write_work(SIZES[name], Path(folder))
            rows += [{"size": name, **row} for row in measured(SIZES[name], folder, arguments)]
    show(rows)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(arguments.threads) | {"load_before": load_before},
        "settings": vars(arguments) | {"out": str(arguments.out)},
        "sizes": {name: asdict(SIZES[name]) for name in arguments.sizes},
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(arguments.out)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    today = datetime.now(UTC).date().isoformat()
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--work", help="folder of work, as work.py writes it; default: made anew")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", choices=("fp32", "bf16", "nf4"), default="fp32")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of SFT and reward")
    parser.add_argument("--iterations", type=int, default=3, help="timed iterations of PPO")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before the clock starts")
    parser.add_argument("--micro-batch-tokens", type=int, default=8192)
    parser.add_argument("--ppo-epochs", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS / f"cpu-{today}.json")
    return parser.parse_args()


def measured(size: Size, folder: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each stage; each stage starts from the artefacts of those before it."""
    rows = []
    for module, batch_size, length in modules_of(size, folder, arguments.precision, arguments):
        if module.stage not in arguments.stages:
            continue
        clock = Clock(arguments.warm_up)
        fit(module, folder, clock, batch_size=batch_size, length=length)
        rows.append(row_of(module.stage, clock))
    return rows


def modules_of(
    size: Size, folder: str, precision: Precision, arguments: argparse.Namespace
) -> list[tuple[SFTModule | RewardModule | PPOModule, int, int]]:
    """Each stage's module, rows of a step, and steps."""
    backbone = BackboneConfig(f"{folder}/base", precision=precision)
    sft, reward = f"{folder}/sft/artefact", f"{folder}/reward/artefact"
    steps = arguments.warm_up + arguments.steps
    iterations = arguments.warm_up + arguments.iterations
    micro = arguments.micro_batch_tokens
    optimizer = OptimizerSettings(learning_rate=1e-4, schedule="constant", warmup_steps=0)
    return [
        (SFTModule(backbone, steps, optimizer, micro, seed=0), size.sft_batch, steps),
        (
            RewardModule(
                backbone,
                sft,
                steps,
                optimizer,
                micro_batch_tokens=micro,
                calibration_samples=16,
                sampling=Sampling(max_new_tokens=16),
            ),
            size.reward_batch,
            steps,
        ),
        (ppo_module(backbone, sft, reward, size, arguments), size.ppo_batch, iterations),
    ]


def ppo_module(
    backbone: BackboneConfig, sft: str, reward: str, size: Size, arguments: argparse.Namespace
) -> PPOModule:
    """PPO whose iterations all do the same work: no update is left out."""
    return PPOModule(
        backbone,
        sft,
        reward,
        total_iterations=arguments.warm_up + arguments.iterations,
        rollout=RolloutSettings(max_new_tokens=arguments.new_tokens),
        updates=UpdateSettings(
            ppo_epochs=arguments.ppo_epochs,
            minibatch_size=size.ppo_batch,
            micro_batch_tokens=arguments.micro_batch_tokens,
            target_kl=None,
        ),
    )


def fit(
    module: SFTModule | RewardModule | PPOModule,
    folder: str,
    clock: Clock,
    *,
    batch_size: int,
    length: int,
) -> None:
    """Train ``length`` steps as the command line would, and leave the artefact."""
    data = PreferenceDataModule(
        f"{folder}/{module.data_kind}.jsonl",
        batch_size=batch_size,
        tokenizer=f"{folder}/base",
        kind=cast(Kind, module.data_kind),
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        limit_train_batches=length,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=f"{folder}/{module.stage}",
        callbacks=[clock, ArtefactWriter("benchmark")],
    )
    trainer.fit(module, datamodule=data)


def resident_mib() -> float:
    """Memory that this process holds by now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def row_of(stage: str, clock: Clock) -> dict[str, Any]:
    """What a stage's clock says.

    Args:
        stage: The stage.
        clock: After the run.
    """
    return {
        "stage": stage,
        "steps": clock.steps,
        "samples": clock.rows,
        "tokens": clock.real,
        "wall_seconds": clock.wall,
        "cpu_seconds": clock.cpu,
        "samples_per_second": clock.rows / clock.wall,
        "tokens_per_second": clock.real / clock.wall,
        "tokens_per_cpu_second": clock.real / clock.cpu,
        "loss": sum(clock.losses) / len(clock.losses),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - clock.before,
        "padding": clock.padding / clock.computed,
        "samples_per_second_by_phase": {
            phase: clock.rows / seconds for phase, seconds in clock.phases.items() if seconds
        },
    }


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table("size", "stage", "samples/s", "tokens/s", "tokens/CPU s", "padding", *PHASES)
    for row in rows:
        by_phase = row["samples_per_second_by_phase"]
        table.add_row(
            row["size"],
            row["stage"],
            f"{row['samples_per_second']:.2f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['tokens_per_cpu_second']:.0f}",
            f"{row['padding']:.0%}",
            *(f"{by_phase[phase]:.2f}/s" if by_phase else "" for phase in PHASES),
        )
    Console(width=max(100, Console().width)).print(table)


def machine(threads: int) -> dict[str, Any]:
    """What the numbers belong to."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpu": names[0] if names else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


if __name__ == "__main__":
    main()
