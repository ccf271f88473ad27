"""What only a GPU can show: rows G0 to G8 of one table, in under ten minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --only G3 G7
    python benchmarks/gpu.py --toy          # the same code on a CPU at toy sizes: says nothing

Mistral-7B-v0.3's architecture with random weights, in NF4; no checkpoint and no network. Each
question is a process of its own with a time of its own: one that fails, dies or takes too long is
a row with its error, and the next goes on. Every row is written to
benchmarks/results/gpu-<date>.json as soon as it is measured. Floors are what bytes or useful FLOPs
cost at the copy bandwidth and the bf16 GEMM rate of the same run (row G0); gap is how many times
slower than that.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARK = "row of gpu.py: "
TOTAL = 580.0
# Seconds of each question, its start included; what one leaves over, the later ones may use.
BUDGETS = {"G0": 30, "G1": 110, "G2": 60, "G3": 110, "G4": 70, "G5": 40, "G7": 50, "G8": 110}
VERSIONS = ("torch", "transformers", "bitsandbytes", "lightning", "rlhf_forge")


def main(argv: list[str] | None = None) -> None:
    """Measure, write and print."""
    arguments = parsed(argv)
    if arguments.child:
        child(arguments)
        return
    report = {
        "command": " ".join(["python", "benchmarks/gpu.py", *(argv or sys.argv[1:])]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "toy": arguments.toy,
        "machine": machine(),
        "rows": [],
    }
    write(report, arguments.out)
    ends = time.monotonic() + TOTAL
    for place, question in enumerate(arguments.only):
        later = sum(BUDGETS[other] for other in arguments.only[place + 1 :])
        limit = max(BUDGETS[question], ends - time.monotonic() - later)
        for row in measured(question, min(limit, ends - time.monotonic()), report, arguments):
            if arguments.toy:
                row.pop("met", None)
            report["rows"].append({"question": question, **row})
            write(report, arguments.out)
            print(f"{question}: {row['what']}: {told(row)}", file=sys.stderr, flush=True)
    show(report["rows"])
    print(arguments.out)


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    today = datetime.now(UTC).date().isoformat()
    parser.add_argument("--toy", action="store_true", help="toy sizes, on the CPU")
    parser.add_argument("--only", nargs="+", choices=list(BUDGETS), default=list(BUDGETS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", choices=list(BUDGETS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=TOTAL, help=argparse.SUPPRESS)
    parser.add_argument("--floors", type=json.loads, default={}, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    name = f"gpu-toy-{today}.json" if arguments.toy else f"gpu-{today}.json"
    arguments.out = arguments.out or RESULTS / name
    return arguments


def measured(
    question: str, limit: float, report: dict[str, Any], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Rows of one question as a process of its own tells them; its failure is the last of them."""
    floors = {row["key"]: row["raw"] for row in report["rows"] if "key" in row}
    command = [sys.executable, __file__, "--child", question, "--seconds", str(limit)]
    command += ["--floors", json.dumps(floors), *(["--toy"] if arguments.toy else [])]
    # Peaks near the cap must not fail for holes between blocks.
    settings = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "HF_HUB_OFFLINE": "1"}
    started = time.monotonic()
    with TemporaryDirectory() as folder, (Path(folder) / "stderr").open("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=settings | os.environ
        )
        watch = threading.Timer(limit, process.kill)
        watch.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                yield json.loads(line.removeprefix(MARK))
        status = process.wait()
        watch.cancel()
        if status:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["nothing was told"])[-1]
            late = time.monotonic() - started >= limit
            reason = f"stopped after its {limit:.0f} s" if late else f"exit {status}: {last}"
            yield {"what": "the question as a whole", "value": None, "unit": "", "error": reason}


def child(arguments: argparse.Namespace) -> None:
    """Measure one question and tell its rows on stdout."""
    ends = time.monotonic() + arguments.seconds

    def tell(row: dict[str, Any]) -> None:
        print(f"{MARK}{json.dumps(row)}", flush=True)

    with TemporaryDirectory() as folder:
        try:
            answer(
                arguments.child, Path(folder), toy=arguments.toy, ends=ends, tell=tell,
                floors=arguments.floors,
            )  # fmt: skip
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            tell({"what": "the rest of the question", "value": None, "unit": "", "error": reason})


def answer(
    question: str, folder: Path, *, toy: bool, ends: float, tell: Any, floors: dict[str, float]
) -> None:
    """Measure one question in this process.

    Args:
        question: Its name.
        folder: For files.
        toy: Whether on the CPU, at toy sizes.
        ends: When its time is over, by the monotonic clock.
        tell: Takes each row.
        floors: Of row G0.
    """
    if question == "G8":
        from gpu_quickstart import quickstart

        quickstart(folder, toy=toy, seconds=ends - time.monotonic(), tell=tell)
        return
    import torch
    from gpu_rows import QUESTIONS, SIZES, Run

    quiet()
    # With its index, which some of torch.cuda asks for.
    sizes, device = (SIZES["toy"], "cpu") if toy else (SIZES["full"], "cuda:0")
    run = Run(sizes, torch.device(device), folder, lambda: ends - time.monotonic(), tell, floors)
    QUESTIONS[question](run)


def quiet() -> None:
    """Rows only."""
    import logging
    import warnings

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")


def machine() -> dict[str, Any]:
    """What the numbers belong to; without loading torch, which the children do."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    commit = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return {
        "gpu": output_of(query),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "commit": output_of(commit),
        "versions": {name: version(name) for name in VERSIONS},
    }


def output_of(command: list[str]) -> str:
    """First line of what a command prints; empty if it cannot be run."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return (done.stdout.splitlines() or [""])[0]


def write(report: dict[str, Any], path: Path) -> None:
    """The report as it is by now; a cut leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1) + "\n")
    partial.replace(path)


def told(row: dict[str, Any]) -> str:
    """A row's value or its error."""
    if row.get("value") is None:
        return str(row.get("error", "not measured here"))
    return f"{row['value']:.4g} {row['unit']}".strip()


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table("", "what", "measured", "floor", "gap", "goal", "met")
    words = {True: "yes", False: "NO", None: ""}
    for row in rows:
        floor, gap = row.get("floor"), row.get("gap")
        table.add_row(
            row["question"],
            row["what"],
            told(row),
            f"{floor:.4g}" if floor else "",
            f"{gap:.1f} x" if gap else "",
            row.get("goal", ""),
            words[row.get("met")],
        )
    Console(width=max(120, Console().width)).print(table)


if __name__ == "__main__":
    main()
