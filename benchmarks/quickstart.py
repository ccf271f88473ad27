"""The quickstart over seeds and precisions, as a table and a picture.

    python benchmarks/quickstart.py --seeds 0 1 2 3 4 --precisions fp32 nf4 bf16 --jobs 2

Every run is a `pipeline` in a process of its own; a finished stage is not run again. Writes
benchmarks/results/quickstart.json, docs/quickstart.md and docs/quickstart.svg.

Believe the seconds of `--jobs 1` on a quiet machine only; the table says how each run was made.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
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
HOW = "how.json"
# The least gain that counts, by how the base is held.
LEAST_GAIN = {"fp32": 0.5, "bf16": 0.4, "nf4": 0.4}


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--precisions", nargs="*", default=["fp32"], choices=list(LEAST_GAIN))
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--threads", type=int, default=2, help="of each run")
    arguments = parser.parse_args()
    todo = list(product(arguments.precisions, arguments.seeds))
    how = {"jobs": arguments.jobs, "threads": arguments.threads}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        failed = [run for run in pool.map(lambda one: run_once(*one, how), todo) if run]
    rows = collected()
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "quickstart.json").write_text(json.dumps(rows, indent=1) + "\n")
    (ROOT / "docs" / "quickstart.md").write_text(page(rows))
    shown = LOGS / name_of("fp32", 0) / "ppo"
    if shown.is_dir():
        (ROOT / "docs" / "quickstart.svg").write_text(picture(shown))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def name_of(precision: str, seed: int) -> str:
    """Name of a run."""
    return f"bench-{precision}-{seed}"


def run_once(precision: str, seed: int, how: dict[str, int]) -> str | None:
    """One pipeline, its output in a log beside it; its name if it failed."""
    run = name_of(precision, seed)
    command = [sys.executable, "-m", "rlhf_forge", "pipeline", "configs/quickstart"]
    command += ["--run", run, "--seed", str(seed), "--data_seed", str(seed)]
    command += ["--precision", precision]
    environment = os.environ | {"OMP_NUM_THREADS": str(how["threads"])}
    if how["jobs"] > 1:  # a thread that waits must leave the core to the other run
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    log, summary = LOGS / f"{run}.log", LOGS / run / "summary.json"
    summary.unlink(missing_ok=True)
    started = time.perf_counter()
    with log.open("w") as file:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False)
    done = summary.is_file()
    print(f"{run}: {'done' if done else f'FAILED ({log})'}", end=" ")
    print(f"in {time.perf_counter() - started:.0f} s", flush=True)
    if not done:
        return run
    made = how | {"commit": commit(), "date": time.strftime("%Y-%m-%d")}
    (LOGS / run / HOW).write_text(json.dumps(made))
    return None


def commit() -> str:
    """What the tree is at, a plus behind it if it has been changed since."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def collected() -> list[dict[str, Any]]:
    """All summaries there are, with how they were made."""
    rows = []
    for path in sorted(LOGS.glob("bench-*/summary.json")):
        _, precision, _ = path.parent.name.split("-")
        made = json.loads((path.parent / HOW).read_text())
        row = {"precision": precision, **made, **json.loads(path.read_text())}
        rows.append(row | {"misses": misses(row)})
    order = list(LEAST_GAIN)
    return sorted(rows, key=lambda row: (order.index(row["precision"]), row["seed"]))


def misses(row: dict[str, Any]) -> list[str]:
    """What the run was to show and did not."""
    sft, ppo, gain = row["models"]["sft"], row["models"]["ppo"], row["gain"]
    policy = row["reward"]["on_policy"]
    mixed = row["reward"]["mixed"]
    wanted = {
        "gain": gain["gold"] >= LEAST_GAIN[row["precision"]],
        "4 se": gain["gold"] >= 4 * gain["se"],
        "accuracy of SFT": sft["accuracy"] >= 0.9,
        "accuracy of PPO": ppo["accuracy"] >= sft["accuracy"] - 0.03,
        "KL": ppo["kl"] <= 10,
        "EOS": ppo["eos"] >= 0.97,
        "reward on policy": policy["accuracy"] >= policy["ceiling"] - 0.05,
        "reward mixed (a goal)": mixed["accuracy"] >= mixed["ceiling"] - 0.05,
    }
    return [name for name, holds in wanted.items() if not holds]


def page(rows: list[dict[str, Any]]) -> str:
    """The tables as Markdown."""
    lines = [
        "# The quickstart over seeds",
        "",
        f"`python benchmarks/quickstart.py` on {platform.machine()}, {os.cpu_count()} cores. Gold, "
        "accuracy (sampled at temperature 1, and greedy), KL in nats per response and EOS on 600 "
        "held-out prompts; gain is PPO over SFT, paired by prompt, with its standard error. Data "
        "and training share the seed. *misses* names what a run was to show and did not: gain of "
        "0.5 (0.4 on bf16, nf4) and of 4 standard errors, SFT's accuracy 0.9, PPO's at most 0.03 "
        "below it, KL at most 10, EOS 0.97, the reward model within 5 points of its ceiling.",
        "",
        "| base | seed | gold SFT | PPO | gain (se) | accuracy SFT (greedy) | PPO (greedy) | KL "
        "| EOS | wins | misses |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *map(line_of, rows),
        "",
        "Reward model, accuracy (ceiling that the label noise allows):",
        "",
    ]
    kinds = list(rows[0]["reward"]) if rows else []
    lines += ["| base | seed | " + " | ".join(kinds) + " |", "|---|---|" + "---|" * len(kinds)]
    for row in rows:
        cells = [
            f"{row['reward'][kind]['accuracy']:.3f} ({row['reward'][kind]['ceiling']:.3f})"
            for kind in kinds
        ]
        lines.append(f"| {row['precision']} | {row['seed']} | " + " | ".join(cells) + " |")
    lines += ["", "Seconds, memory, and how each run was made:", ""]
    stages = list(rows[0]["seconds"]) if rows else []
    lines += [
        f"| base | seed | {' | '.join(stages)} | all | peak MiB | runs at a time x threads "
        "| commit | date |",
        "|---|---|" + "---|" * (len(stages) + 5),
    ]
    lines += [made_of(row) for row in rows]
    return "\n".join([*lines, ""])


def line_of(row: dict[str, Any]) -> str:
    """A row of the first table."""
    sft, ppo = row["models"]["sft"], row["models"]["ppo"]
    return (
        f"| {row['precision']} | {row['seed']} | {sft['gold']:.2f} | {ppo['gold']:.2f} "
        f"| {row['gain']['gold']:+.2f} ({row['gain']['se']:.2f}) "
        f"| {sft['accuracy']:.3f} ({sft['accuracy_greedy']:.3f}) "
        f"| {ppo['accuracy']:.3f} ({ppo['accuracy_greedy']:.3f}) | {ppo['kl']:.1f} "
        f"| {ppo['eos']:.3f} | {row['win_rate']['ppo_vs_sft']:.0%} "
        f"| {', '.join(row['misses']) or 'nothing'} |"
    )


def made_of(row: dict[str, Any]) -> str:
    """A row of the last table."""
    seconds = row["seconds"]
    cells = [f"{seconds[stage]:.0f}" for stage in seconds]
    return (
        f"| {row['precision']} | {row['seed']} | {' | '.join(cells)} "
        f"| {sum(seconds.values()):.0f} | {row['peak_rss_mib']:.0f} "
        f"| {row['jobs']} x {row['threads']} | {row['commit']} | {row['date']} |"
    )


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
