"""SFT, reward training and PPO against TRL on the same work, in turn on the same machine.

    python benchmarks/against_trl.py --lab /tmp/lab --sizes small medium --precision fp32 bf16

Makes its own environment for TRL in the lab folder (pinned; never a dependency of rlhf_forge), the
work of peers/make_work.py, and runs ours and TRL's at its best settings A B A B: threads, batch
sizes, adapter and optimiser are the same. Then, in each turn, ceiling.py. Prints the ratios with
their spread and writes benchmarks/results/against-trl-<date>.json, row by row. A quiet machine is
needed; the load is written down. Rows come in another order on each side, so tokens are to be
compared before samples.
"""

import argparse
import json
import os
import subprocess
import sys
import venv
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
PEERS = HERE / "peers"
PINS = (
    "torch==2.13.0",
    "transformers==5.23.0",
    "peft==0.21.2",
    "datasets==5.2.0",
    "accelerate==1.15.0",
    "trl==1.16.0",
)
PPO_PIN = "trl==1.12.0"  # its last with PPO
STAGES = ("sft", "reward", "ppo")
OUR_SIZES = {"small": "5M", "medium": "31M"}
BATCHES = {
    "small": {"sft": 16, "reward": 8, "ppo": 16},
    "medium": {"sft": 8, "reward": 4, "ppo": 8},
}
PPO_EPOCHS = 4
FILES = {"sft": "demonstrations", "preference": "pairs"}


def main() -> None:
    """Prepare, run in turn, print, write."""
    arguments = parsed()
    lab: Path = arguments.lab
    python = trl_environment(lab)
    rows = []
    for size in arguments.sizes:
        work = work_of(size, lab, python)
        for precision in arguments.precision:
            for stage in arguments.stages:
                turns = [
                    {
                        "ours": ours(stage, size, work, precision, arguments),
                        "trl": trl(stage, size, work, precision, lab, arguments),
                        "ceiling": ceiling(size, precision, arguments),
                    }
                    for _ in range(arguments.pairs)
                ]
                rows.append({"size": size, "precision": precision, "stage": stage, "turns": turns})
                print(line_of(rows[-1]), flush=True)
                write(rows, arguments)
    print(arguments.out)


def write(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Everything so far: hours of runs may be cut."""
    report = {"command": command_of(arguments), "date": datetime.now(UTC).isoformat(), "rows": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    today = datetime.now(UTC).date().isoformat()
    parser.add_argument("--lab", type=Path, required=True, help="folder for TRL and the work")
    parser.add_argument("--sizes", nargs="+", choices=OUR_SIZES, default=list(OUR_SIZES))
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"]
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--pairs", type=int, default=5, help="runs of each side")
    parser.add_argument("--steps", type=int, default=4, help="timed steps of SFT and reward")
    parser.add_argument("--iterations", type=int, default=2, help="timed iterations of PPO")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=HERE / f"results/against-trl-{today}.json")
    return parser.parse_args()


def command_of(arguments: argparse.Namespace) -> str:
    """The command line, without folders of this machine."""
    words = ["python benchmarks/against_trl.py --lab lab --sizes", *arguments.sizes]
    words += ["--precision", *arguments.precision, "--stages", *arguments.stages]
    for name in ("pairs", "steps", "iterations", "threads"):
        words += [f"--{name}", str(getattr(arguments, name))]
    return " ".join(words)


def trl_environment(lab: Path) -> Path:
    """The interpreter of an environment with TRL, made at the first call."""
    python = lab / "trl" / "bin" / "python"
    if not (lab / "trl-ppo" / "trl").is_dir():
        venv.create(lab / "trl", with_pip=True)
        install = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*install, *PINS], check=True)
        subprocess.run([*install, "--no-deps", "--target", lab / "trl-ppo", PPO_PIN], check=True)
    return python


def work_of(size: str, lab: Path, python: Path) -> Path:
    """The work's folder, made at the first call; under the names of work.py, too."""
    work = lab / f"work-{size}"
    if not (work / "base").exists():
        subprocess.run([python, PEERS / "make_work.py", work, "--size", size], check=True)
        for theirs, name in FILES.items():
            (work / f"{name}.jsonl").symlink_to(f"{theirs}.jsonl")
        (work / "base").symlink_to("model")
    return work


def ours(
    stage: str, size: str, work: Path, precision: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One run of throughput.py; each stage starts from the artefacts that those before it left."""
    out = work / "ours.json"
    command = [sys.executable, HERE / "throughput.py", "--work", work, "--out", out]
    command += ["--sizes", OUR_SIZES[size], "--stages", stage, "--precision", precision]
    command += ["--threads", str(arguments.threads), "--steps", str(arguments.steps)]
    command += ["--iterations", str(arguments.iterations), "--ppo-epochs", str(PPO_EPOCHS)]
    subprocess.run(command, check=True, env=environment(arguments), stdout=subprocess.DEVNULL)
    row = json.loads(out.read_text())["rows"][0]
    return {
        "samples_per_s": row["samples_per_second"],
        "tokens_per_s": row["tokens_per_second"],
        "tokens_per_cpu_s": row["tokens_per_cpu_second"],
        "trained_tokens_per_s": trained(row),
        "memory_mib": row["memory_mib"],
        "loss": row["loss"],
        "load": os.getloadavg()[0],
    }


def trained(row: dict[str, Any]) -> float:
    """Tokens a second that go forward and backward.

    In PPO's update those are all tokens in each epoch, under the policy and under the value model.
    """
    update = row["samples_per_second_by_phase"].get("update")
    if update is None:
        return float(row["tokens_per_second"])
    return float(2 * PPO_EPOCHS * update * row["tokens"] / row["samples"])


def ceiling(size: str, precision: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One run of ceiling.py."""
    command = [sys.executable, HERE / "ceiling.py", "--size", OUR_SIZES[size]]
    command += ["--precision", precision, "--threads", str(arguments.threads)]
    done = subprocess.run(
        command, check=True, env=environment(arguments), capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def trl(
    stage: str, size: str, work: Path, precision: str, lab: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One run of TRL's trainer, tuned."""
    steps = arguments.iterations if stage == "ppo" else arguments.steps
    command = [lab / "trl/bin/python", PEERS / f"trl_{stage}.py", work, "--tuned"]
    command += ["--dtype", precision, "--batch", str(BATCHES[size][stage]), "--steps", str(steps)]
    command += ["--epochs", str(PPO_EPOCHS)] if stage == "ppo" else []
    path = {"PYTHONPATH": str(lab / "trl-ppo")} if stage == "ppo" else {"PYTHONPATH": ""}
    done = subprocess.run(
        command, check=True, env=environment(arguments) | path, capture_output=True, text=True
    )
    row = json.loads(done.stdout.splitlines()[-1])
    return {
        "samples_per_s": row["samples_per_s"],
        "tokens_per_s": row["tokens_per_s"],
        "tokens_per_cpu_s": row["real_tokens"] / row["cpu_seconds_steady"],
        "memory_mib": row["peak_rss_mib"] - row["rss_before_model_mib"],
        "loss": row.get("train_loss", 0.0),
        "load": os.getloadavg()[0],
    }


def environment(arguments: argparse.Namespace) -> dict[str, str]:
    """The same for both sides."""
    return os.environ | {
        "OMP_NUM_THREADS": str(arguments.threads),
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
    }


def line_of(row: dict[str, Any]) -> str:
    """Ours over TRL's and over the ceiling: median of the turns, the least and the most."""
    cells = []
    for name in ("samples_per_s", "tokens_per_s", "tokens_per_cpu_s", "memory_mib"):
        cells.append(
            spread(name, [turn["ours"][name] / turn["trl"][name] for turn in row["turns"]])
        )
    reached = [
        turn["ours"]["trained_tokens_per_s"] / turn["ceiling"]["tokens_per_s"]
        for turn in row["turns"]
    ]
    of_matmul = [
        share * turn["ceiling"]["gflops"] / turn["ceiling"]["matmul_gflops"]
        for share, turn in zip(reached, row["turns"], strict=True)
    ]
    cells += [spread("of the ceiling", reached), spread("of matmul", of_matmul)]
    losses = " and ".join(
        f"{median(turn[side]['loss'] for turn in row['turns']):.3f}" for side in ("ours", "trl")
    )
    return f"{row['size']} {row['precision']} {row['stage']}: {'; '.join(cells)}; losses {losses}"


def spread(name: str, ratios: list[float]) -> str:
    """One column of a line."""
    return f"{name} {median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
