"""Peak memory as `plan` predicts it, beside what a fresh process really takes.

    python benchmarks/plan.py --cases 31M:fp32:32 31M:bf16:64

A case is SIZE:PRECISION:ROWS. SFT, reward and PPO are run in turn by `fit`, each in a process of
its own, four steps of ROWS rows each; both numbers are those that `fit` keeps in provenance.json.
Prints a table and writes benchmarks/results/plan.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from throughput import machine
from work import SIZES, write_work

RESULTS = Path(__file__).parent / "results"
MODULES = "rlhf_forge.modules."
MIB, GIB = 2**20, 2**30


def main() -> None:
    """Run every case, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["5M:fp32:32", "31M:fp32:32"])
    parser.add_argument("--stages", nargs="+", default=["sft", "reward", "ppo"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--micro-batch-tokens", type=int, default=16384)
    parser.add_argument("--work", type=Path, help="where work.py's folders lie; default: made anew")
    parser.add_argument("--out", type=Path, default=RESULTS / "plan.json")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for case in arguments.cases:
            size, precision, count = case.split(":")
            place = (arguments.work or Path(temporary)) / size
            if not (place / "base").is_dir():
                place.mkdir(parents=True, exist_ok=True)
                write_work(SIZES[size], place)
            for stage in arguments.stages:
                config = config_of(stage, place, precision, int(count), arguments)
                found = memory_of(stage, config, Path(temporary), f"{size}-{precision}-{count}")
                rows.append({"size": size, "precision": precision, "rows": int(count)} | found)
                write(arguments, rows)
    show(rows)


def config_of(
    stage: str, place: Path, precision: str, rows: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """A stage whose every step is one micro-batch of ``rows`` rows, where that fits."""
    model: dict[str, Any] = {"backbone": {"path": str(place / "base"), "precision": precision}}
    micro, steps = arguments.micro_batch_tokens, arguments.steps
    sampling = {"max_new_tokens": 16}
    if stage == "ppo":
        model |= {
            "total_iterations": steps,
            "accept_bad_card": True,
            "rollout": {"max_new_tokens": 64, "max_rows": rows},
            "updates": {
                "ppo_epochs": 2,
                "minibatch_size": rows,
                "micro_batch_tokens": micro,
                "target_kl": None,
            },
        }
    else:
        model |= {"total_steps": steps, "micro_batch_tokens": micro, "sampling": sampling}
    if stage == "reward":
        model["calibration_samples"] = 16
    kinds = {
        "sft": ("sft.SFTModule", "demonstrations", rows),
        "reward": ("reward.RewardModule", "pairs", rows // 2),
        "ppo": ("ppo.PPOModule", "prompts", rows),
    }
    name, kind, batch = kinds[stage]
    return {
        "model": {"class_path": MODULES + name, "init_args": model},
        "data": {
            "path": str(place / f"{kind}.jsonl"),
            "max_length": 512,
            "batch_size": batch,
            "validation_limit": 16,
        },
        "trainer": {
            "accelerator": "cpu",
            "limit_val_batches": 0,
            "enable_progress_bar": False,
            "logger": False,
        },
    }


def memory_of(stage: str, config: dict[str, Any], folder: Path, run: str) -> dict[str, Any]:
    """What `fit` predicted and measured, in bytes."""
    path = folder / f"{stage}.yaml"
    path.write_text(yaml.safe_dump(config | {"run": run}))
    command = [sys.executable, "-m", "rlhf_forge", "fit", "--config", str(path)]
    subprocess.run(command, cwd=folder, check=True)
    kept = json.loads((folder / "lightning_logs" / run / stage / "provenance.json").read_text())
    return {"stage": stage, **kept["memory"]}


def write(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Everything so far: the last case may not end."""
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
        | {"load": os.getloadavg()[0]},
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def show(rows: list[dict[str, Any]]) -> None:
    """The table, in MiB."""
    table = Table(
        "size", "precision", "rows", "stage", "low", "expected", "high", "measured", "off"
    )
    for row in rows:
        predicted, measured = row["predicted"], row["measured"]
        off = predicted["expected"] / measured - 1
        sizes = [*(predicted[name] for name in ("low", "expected", "high")), measured]
        table.add_row(
            row["size"],
            row["precision"],
            str(row["rows"]),
            row["stage"],
            *(f"{size / MIB:.0f}" for size in sizes),
            f"{off:+.0%}" + ("" if measured >= GIB else " (below 1 GiB)"),
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
