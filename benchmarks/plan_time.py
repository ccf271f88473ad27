"""Seconds a step as `plan` predicts them, beside those of the same steps of a real run.

    OMP_NUM_THREADS=1 python benchmarks/plan_time.py
    OMP_NUM_THREADS=1 python benchmarks/plan_time.py --precision bf16

For each size SFT, reward and PPO in turn, each on the artefacts of those before it. Both sides are
processor time of one thread, so that other jobs on the machine count for little. A process has one
precision, as how many compiled kernels it keeps is decided once. Prints a table and writes
benchmarks/results/plan-time-<precision>.json.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from argparse import Namespace
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import torch
import yaml
from lightning.pytorch import Trainer
from plan import RESULTS, config_of
from rich.console import Console
from rich.table import Table
from throughput import STAGES, Clock, machine
from work import SIZES, Size, write_work

from rlhf_forge.backbone.config import Precision
from rlhf_forge.callbacks.artefact_writer import ArtefactWriter
from rlhf_forge.parsed_stage import ParsedStage, parsed_stage
from rlhf_forge.planning.duration import duration_of
from rlhf_forge.planning.look import Look, look_at
from rlhf_forge.planning.speed import measured_speed

# Steps before the clock starts.
WARM_UP = 2


def main() -> None:
    """Run every case, print, write."""
    arguments = parsed()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as temporary:
            write_work(SIZES[size], Path(temporary))
            for stage in STAGES:
                found = compared(stage, SIZES[size], Path(temporary), arguments)
                named = {"size": size, "precision": arguments.precision, "stage": stage}
                rows.append(named | found)
                write(arguments, rows)
    show(rows)


def parsed() -> Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of SFT and reward")
    parser.add_argument("--iterations", type=int, default=2, help="timed iterations of PPO")
    parser.add_argument("--out", type=Path, help="default: results/plan-time-<precision>.json")
    return parser.parse_args()


def compared(stage: str, size: Size, folder: Path, arguments: Namespace) -> dict[str, Any]:
    """Processor seconds a step, predicted and measured."""
    parsed = stage_of(stage, size, folder, arguments)
    data = parsed.data()
    look = look_at(parsed.config, stage=stage, data=data)
    clock = Clock(WARM_UP)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=look.setup.length,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(folder / stage),
        callbacks=[clock, ArtefactWriter("benchmark")],
    )
    told = predicted(parsed, look)
    trainer.fit(parsed.module(), datamodule=data)
    return {
        **told,
        "measured": clock.cpu / clock.steps,
        "clock": clock.wall / clock.steps,
        "tokens": clock.real / clock.steps,
    }


def stage_of(stage: str, size: Size, folder: Path, arguments: Namespace) -> ParsedStage:
    """A stage of a few steps, as the command line would parse it."""
    rows = {"sft": size.sft_batch, "reward": 2 * size.reward_batch, "ppo": size.ppo_batch}[stage]
    steps = WARM_UP + (arguments.iterations if stage == "ppo" else arguments.steps)
    settings = Namespace(steps=steps, micro_batch_tokens=8192)
    config = config_of(stage, folder, arguments.precision, rows, settings)
    parents = {"reward": ["sft"], "ppo": ["sft", "reward"]}.get(stage, [])
    for parent in parents:
        config["model"]["init_args"][parent] = str(folder / parent / "artefact")
    path = folder / f"{stage}.yaml"
    path.write_text(yaml.safe_dump(config | {"run": "plan-time"}))
    return parsed_stage(["--config", str(path)])


def predicted(parsed: ParsedStage, look: Look) -> dict[str, float]:
    """Seconds of a step that is not of the warm-up, as `plan` would tell them of the whole run.

    By processor time; with those that it took to tell.
    """
    start = time.process_time()
    with patch("rlhf_forge.planning.speed.perf_counter", time.process_time):
        speed = measured_speed(
            parsed.module().backbone_config, look.folder, look.setup, look.demand
        )
    took = time.process_time() - start
    timed = replace(look.demand, steps=look.demand.steps[WARM_UP:])
    hours = duration_of(look.setup, timed, speed).hours
    return {"predicted": hours * 3600 / look.setup.length, "took": took}


def write(arguments: Namespace, rows: list[dict[str, Any]]) -> None:
    """Everything so far."""
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(1) | {"load": os.getloadavg()[0]},
        "rows": rows,
    }
    out = arguments.out or RESULTS / f"plan-time-{arguments.precision}.json"
    out.write_text(json.dumps(report, indent=1) + "\n")


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table("size", "precision", "stage", "predicted", "measured", "off", "told within")
    for row in rows:
        table.add_row(
            row["size"],
            row["precision"],
            row["stage"],
            f"{row['predicted']:.2f} s",
            f"{row['measured']:.2f} s",
            f"{row['predicted'] / row['measured'] - 1:+.0%}",
            f"{row['took']:.1f} s",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
