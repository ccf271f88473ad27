"""The quickstart over seeds and precisions, as a table and a picture.

    python benchmarks/quickstart.py --seeds 0 1 2 3 4 --precisions fp32

Every run is a `pipeline` in a process of its own; a finished one is not run again. Writes
benchmarks/results/quickstart.json, docs/quickstart.md and docs/quickstart.svg.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "lightning_logs"
RESULTS = ROOT / "benchmarks" / "results"
CURVES = {
    "judge/score": ("gold (never seen by training)", "#2563eb"),
    "objective/score": ("reward-model score", "#d97706"),
    "objective/kl": ("KL from SFT, nats a response", "#64748b"),
}


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--precisions", nargs="+", default=["fp32"])
    arguments = parser.parse_args()
    for precision in arguments.precisions:
        for seed in arguments.seeds:
            run_once(precision, seed)
    rows = collected()
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "quickstart.json").write_text(json.dumps(rows, indent=1) + "\n")
    (ROOT / "docs" / "quickstart.md").write_text(page(rows))
    (ROOT / "docs" / "quickstart.svg").write_text(picture(LOGS / name_of("fp32", 0) / "ppo"))


def name_of(precision: str, seed: int) -> str:
    """Name of a run."""
    return f"bench-{precision}-{seed}"


def run_once(precision: str, seed: int) -> None:
    """One pipeline, its output in a log beside it; seconds are wall clock of the whole process."""
    run = name_of(precision, seed)
    command = [sys.executable, "-m", "rlhf_forge", "pipeline", "configs/quickstart"]
    command += ["--run", run, "--seed", str(seed), "--data_seed", str(seed)]
    command += ["--precision", precision]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    log = LOGS / f"{run}.log"
    started = time.perf_counter()
    with log.open("w") as file:
        status = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False
        ).returncode
    print(f"{run}: {'done' if status == 0 else f'FAILED ({log})'}", end=" ")
    print(f"in {time.perf_counter() - started:.0f} s", flush=True)


def collected() -> list[dict[str, Any]]:
    """All summaries there are, with where they were made."""
    rows = []
    for path in sorted(LOGS.glob("bench-*/summary.json")):
        _, precision, _ = path.parent.name.split("-")
        rows.append({"precision": precision, **json.loads(path.read_text())})
    return rows


def page(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    today = time.strftime("%Y-%m-%d")
    lines = [
        "# The quickstart over seeds",
        "",
        f"`python benchmarks/quickstart.py` on {platform.machine()}, {os.cpu_count()} cores, "
        f"{today}. Gold, accuracy, KL and EOS on 600 held-out prompts sampled at temperature 1; "
        "gain is PPO over SFT, paired by prompt, with its standard error.",
        "",
        "| base | seed | gold SFT | gold PPO | gain (se) | accuracy SFT | PPO | KL | EOS | wins "
        "| s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sft, ppo = row["models"]["sft"], row["models"]["ppo"]
        lines.append(
            f"| {row['precision']} | {row['seed']} | {sft['gold']:.2f} | {ppo['gold']:.2f} "
            f"| {row['gain']['gold']:+.2f} ({row['gain']['se']:.2f}) "
            f"| {sft['accuracy']:.3f} | {ppo['accuracy']:.3f} | {ppo['kl']:.1f} "
            f"| {ppo['eos']:.3f} | {row['win_rate']['ppo_vs_sft']:.0%} "
            f"| {sum(row['seconds'].values()):.0f} |"
        )
    lines += ["", "Reward model, accuracy (ceiling that the label noise allows):", ""]
    kinds = list(rows[0]["reward"]) if rows else []
    lines += ["| base | seed | " + " | ".join(kinds) + " |", "|---|---|" + "---|" * len(kinds)]
    for row in rows:
        cells = [
            f"{row['reward'][kind]['accuracy']:.3f} ({row['reward'][kind]['ceiling']:.3f})"
            for kind in kinds
        ]
        lines.append(f"| {row['precision']} | {row['seed']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def picture(folder: Path) -> str:
    """Gold, score and KL by iteration, each in a panel of its own, as SVG."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    known = set(events.Tags()["scalars"])
    panels = [
        panel(number, [(e.step, e.value) for e in events.Scalars(tag)], *CURVES[tag])
        for number, tag in enumerate(tag for tag in CURVES if tag in known)
    ]
    width, height = 260 * max(len(panels), 1), 200
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11">'
        f'<rect width="{width}" height="{height}" fill="white"/>{"".join(panels)}</svg>\n'
    )


def panel(number: int, points: list[tuple[int, float]], title: str, colour: str) -> str:
    """One line chart with its range written out."""
    left, top, width, height = 260 * number + 44, 34, 196, 130
    low, high = min(y for _, y in points), max(y for _, y in points)
    span, last = (high - low) or 1.0, max(x for x, _ in points) or 1
    path = " ".join(
        f"{left + width * x / last:.1f},{top + height * (1 - (y - low) / span):.1f}"
        for x, y in points
    )
    return (
        f'<text x="{left}" y="{top - 14}" fill="#111">{title}</text>'
        f'<path d="M{left} {top}V{top + height}H{left + width}" fill="none" stroke="#bbb"/>'
        f'<text x="{left - 6}" y="{top + 8}" text-anchor="end" fill="#555">{high:.2f}</text>'
        f'<text x="{left - 6}" y="{top + height}" text-anchor="end" fill="#555">{low:.2f}</text>'
        f'<text x="{left + width}" y="{top + height + 16}" text-anchor="end" fill="#555">'
        f"iteration {last}</text>"
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    )


if __name__ == "__main__":
    main()
