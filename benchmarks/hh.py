"""The chain on real preferences: what a tiny base learns of Anthropic's HH harmless test file.

    python benchmarks/hh.py

Runs `pipeline configs/hh` (docs/recipes.md says how to get the file), a finished stage not again,
and writes benchmarks/results/hh.json and docs/hh.md.
"""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from quickstart import LOGS, RESULTS, ROOT, commit

RUN = "hh"
NEW_RATE = "2026-11-26"
"""From when on the reward model has learnt with the quickstart's present rate."""


def main() -> None:
    """Run the chain and write the page."""
    log = LOGS / f"{RUN}.log"
    command = [sys.executable, "-m", "rlhf_forge", "pipeline", "configs/hh", "--run", RUN]
    with log.open("a") as file:  # what finished stages said stands in it already
        status = subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, check=False).returncode
    if status:
        sys.exit(f"failed: {log}")
    summary = json.loads((LOGS / RUN / "summary.json").read_text())
    made = {"commit": commit(), "date": time.strftime("%Y-%m-%d"), "counts": counts(log)}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "hh.json").write_text(json.dumps(made | summary, indent=1) + "\n")
    (ROOT / "docs" / "hh.md").write_text(page(made | summary))


def counts(log: Path) -> list[str]:
    """What each stage said of the records, without their line numbers."""
    lines = [line.strip().split(" (")[0] for line in log.read_text().splitlines()]
    told = [line for line in lines if "records read" in line or " skipped: " in line]
    return list(dict.fromkeys(told))


def page(found: dict[str, Any]) -> str:
    """The page as Markdown."""
    lines = [
        "# The chain on real preferences",
        "",
        f"`python benchmarks/hh.py` at {found['commit']}, {found['date']}, {platform.machine()}, "
        f"{os.cpu_count()} cores: SFT on the chosen answers, a reward model on the pairs and PPO "
        "on the prompts of Anthropic's HH-RLHF harmless test file (2,312 records), by "
        "`pipeline configs/hh`. It shows that the chain takes real data, not that a base of 3.4M "
        "parameters, which has only read the toy world, learns to be harmless: it does not. Score "
        "is the reward model's own, by which PPO was trained; no one else has judged. Win rates "
        "with 95 % intervals.",
        "",
        "| | score (se) | KL from SFT | tokens | ended | n |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found["models"].items():
        lines.append(
            f"| {name} | {row['gold']:.2f} ({row['gold_se']:.2f}) | {row['kl']:.1f} "
            f"| {row['length']:.0f} | {row['eos']:.2f} | {row['n']} |"
        )
    gain, wins, pairs = found["gain"], found["win_rate"], found["reward"]["mixed"]
    seconds = ", ".join(f"{stage} {spent:.0f}" for stage, spent in found["seconds"].items())
    lines += [
        "",
        *of_the_old_rate(found["date"]),
        *shrunk(found["models"]),
        f"PPO over SFT: {gain['gold']:+.2f} (se {gain['se']:.2f}), wins {wins['ppo_vs_sft']:.0%} "
        f"({wins['low']:.0%} to {wins['high']:.0%}).",
        "",
        f"The reward model sides with the annotators on {pairs['accuracy']:.3f} of {pairs['n']} "
        f"held-out pairs ({pairs['low']:.3f} to {pairs['high']:.3f}): "
        + ("better than chance." if pairs["low"] > 0.5 else "no better than chance."),
        "",
        "Every record is used or counted with its reason and its line (SFT, reward model, PPO):",
        "",
        *[f"- {line}" for line in found["counts"]],
        "",
        f"Seconds: {seconds}. Peak memory {found['peak_rss_mib']:.0f} MiB.",
        "",
    ]
    return "\n".join(lines)


def of_the_old_rate(date: str) -> list[str]:
    """Which settings the numbers are of, where they are not the present ones."""
    if date >= NEW_RATE:
        return []
    return [
        "**These numbers are of a reward model with the rate 2.5e-3 behind 5 steps of warm-up**, "
        f"which its config had until {NEW_RATE}. It has the quickstart's 1.5e-3 behind 20 steps "
        "since, and was not run again.",
        "",
    ]


def shrunk(models: dict[str, Any]) -> list[str]:
    """What to make of it where PPO's answers have lost most of their length."""
    before, after = (models[name]["length"] for name in ("sft", "ppo"))
    if after > before / 2:
        return []
    return [
        f"**The score says nothing good.** PPO's responses shrank from {before:.0f} tokens to "
        f"{after:.0f}: it found what a reward model that knows hardly more than chance happens to "
        "like. That is over-optimisation, and the score alone, or the win rate, would not show it: "
        "look at the length, and read samples.jsonl.",
        "",
    ]


if __name__ == "__main__":
    main()
