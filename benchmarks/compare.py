"""PPO, RLOO, GRPO and DPO from the same SFT and reward models, over seeds, as a table.

    python benchmarks/compare.py --seeds 0 1 2 3 4

Every run is a `pipeline` of configs/quickstart-compare in a process of its own; a finished stage is
not run again. Writes benchmarks/results/compare.json and docs/compare.md.

Believe the seconds of a quiet machine only. A policy's are those of its own stage: DPO needs no
reward model, and that PPO, RLOO and GRPO do costs the seconds of the stage reward once.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from quickstart import HOW, LOGS, RESULTS, ROOT, commit

POLICIES = ("ppo", "rloo", "grpo", "dpo")


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=2, help="of each run")
    parser.add_argument("--configs", default="configs/quickstart-compare", help="for a try: others")
    parser.add_argument("--json", type=Path, default=RESULTS / "compare.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "compare.md")
    arguments = parser.parse_args()
    place = Path(arguments.configs).name
    failed = [
        run
        for seed in arguments.seeds
        if (run := run_once(arguments.configs, seed, arguments.threads))
    ]
    rows = collected(place)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if rows:
        arguments.page.write_text(page(rows))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run_once(configs: str, seed: int, threads: int) -> str | None:
    """One pipeline, its output in a log beside it; its name if it failed."""
    run = f"{Path(configs).name}-{seed}"
    command = [sys.executable, "-m", "rlhf_forge", "pipeline", configs]
    command += ["--run", run, "--seed", str(seed), "--data_seed", str(seed)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    log, summary = LOGS / f"{run}.log", LOGS / run / "summary.json"
    summary.unlink(missing_ok=True)
    LOGS.mkdir(exist_ok=True)
    started = time.perf_counter()
    with log.open("w") as file:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False)
    done = summary.is_file()
    print(f"{run}: {'done' if done else f'FAILED ({log})'}", end=" ")
    print(f"in {time.perf_counter() - started:.0f} s", flush=True)
    if not done:
        return run
    made = {"threads": threads, "commit": commit(), "date": time.strftime("%Y-%m-%d")}
    (LOGS / run / HOW).write_text(json.dumps(made))
    return None


def collected(place: str) -> list[dict[str, Any]]:
    """All summaries there are, with how they were made, by seed."""
    paths = [path for path in LOGS.glob(f"{place}-*/summary.json") if (path.parent / HOW).is_file()]
    rows = [
        json.loads((path.parent / HOW).read_text()) | json.loads(path.read_text()) for path in paths
    ]
    return sorted(rows, key=lambda row: row["seed"])


def of_policy(row: dict[str, Any], name: str) -> dict[str, Any]:
    """What a run says of one policy: gain, win rate, seconds, and what it answers."""
    own = (
        {key: row[key] for key in ("gain", "win_rate")} if name == "ppo" else row["policies"][name]
    )
    return {**own, "seconds": row["seconds"][name], **row["models"][name]}


def page(rows: list[dict[str, Any]]) -> str:
    """The tables as Markdown."""
    number = rows[0]["models"]["ppo"]["n"]
    lines = [
        "# PPO, RLOO, GRPO and DPO on the quickstart",
        "",
        f"`python benchmarks/compare.py` on {platform.machine()}, {os.cpu_count()} cores, "
        f"{rows[0]['threads']} threads. All four start from the same SFT model of a seed; PPO, "
        "RLOO and GRPO sample equally many responses and ask the same reward model, DPO reads that "
        "model's pairs once. RLOO and GRPO have PPO's learning rate, tuned for PPO; DPO's is the "
        "best of three (1e-4, 2e-4, 5e-4) on seeds 1 and 2. Gold, accuracy, KL (nats per "
        f"response, from SFT) and length (tokens) are of {number} held-out prompts sampled at "
        "temperature 1; a gain is over SFT, paired by prompt. Seconds are those of the policy's "
        "own stage.",
        "",
        f"Means over {len(rows)} seed{'s' * (len(rows) > 1)}, with the standard error over them:",
        "",
        "| policy | gain in gold | less PPO's | accuracy | KL | length | wins | seconds |",
        "|---|---|---|---|---|---|---|---|",
        *(mean_line(rows, name) for name in POLICIES),
        "",
        "Each seed (a gain's standard error is over prompts):",
        "",
        "| seed | policy | gold SFT | gold | gain (se) | accuracy | KL | length | EOS | wins | s "
        "| commit | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(line(row, name) for row in rows for name in POLICIES),
    ]
    return "\n".join([*lines, ""])


def mean_line(rows: list[dict[str, Any]], name: str) -> str:
    """A policy over all seeds."""
    found, ppo = ([of_policy(row, policy) for row in rows] for policy in (name, "ppo"))
    gains = [one["gain"]["gold"] for one in found]
    less = [a - b["gain"]["gold"] for a, b in zip(gains, ppo, strict=True)]
    cells = [
        with_error(gains),
        "-" if name == "ppo" else with_error(less),
        f"{fmean(one['accuracy'] for one in found):.3f}",
        f"{fmean(one['kl'] for one in found):.1f}",
        f"{fmean(one['length'] for one in found):.1f}",
        f"{fmean(one['win_rate'][f'{name}_vs_sft'] for one in found):.0%}",
        f"{fmean(one['seconds'] for one in found):.0f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def with_error(values: list[float]) -> str:
    """Mean and standard error; of one value there is no error."""
    error = f" ({stdev(values) / len(values) ** 0.5:.2f})" if len(values) > 1 else ""
    return f"{fmean(values):+.2f}{error}"


def line(row: dict[str, Any], name: str) -> str:
    """A policy of one run."""
    one, gain = of_policy(row, name), of_policy(row, name)["gain"]
    return (
        f"| {row['seed']} | {name} | {row['models']['sft']['gold']:.2f} | {one['gold']:.2f} "
        f"| {gain['gold']:+.2f} ({gain['se']:.2f}) | {one['accuracy']:.3f} | {one['kl']:.1f} "
        f"| {one['length']:.1f} | {one['eos']:.3f} | {one['win_rate'][f'{name}_vs_sft']:.0%} "
        f"| {one['seconds']:.0f} | {row['commit']} | {row['date']} |"
    )


if __name__ == "__main__":
    main()
