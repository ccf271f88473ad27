"""A million pairs through `inspect-data`: how long it takes, and how much memory.

    python benchmarks/inspect_large.py [--pairs 1000000]

Makes the pairs (about 1 KB each, words drawn by Zipf's law, with duplicates, near duplicates and
contradictions among them), inspects them with all rules in a process of its own, and writes
benchmarks/results/inspect-large.json. Memory is the process's peak, as the system counts it.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from quickstart import RESULTS, commit

WORDS = 50_000
PROMPT, ANSWER = 40, 60
BLOCK = 10_000
PARTS = ("prompt", "chosen", "rejected")


def pairs(number: int, *, seed: int) -> Iterator[dict[str, str]]:
    """So many pairs; some repeat one of their block: wholly, nearly, or with the label turned."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(
        ["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(WORDS)], dtype=object
    )
    odds = 1 / np.arange(2, WORDS + 2)
    odds /= odds.sum()
    for start in range(0, number, BLOCK):
        lengths = rng.poisson((PROMPT, ANSWER, ANSWER), (BLOCK, 3)) + 3
        drawn = words[rng.choice(WORDS, int(lengths.sum()), p=odds)].tolist()
        ends = lengths.ravel().cumsum().tolist()
        texts = [f"{' '.join(drawn[a:b])}." for a, b in pairwise([0, *ends])]
        kinds = rng.choice(3, BLOCK, p=(0.95, 0.04, 0.01)).tolist()
        block: list[dict[str, str]] = []
        for at, kind in enumerate(kinds):
            row = dict(zip(PARTS, texts[3 * at : 3 * at + 3], strict=True))
            if kind and block:
                row = dict(block[int(rng.integers(len(block)))])
                if kind == 2:
                    row |= {"chosen": row["rejected"], "rejected": row["chosen"]}
                elif rng.random() < 0.5:
                    row["chosen"] = f"{row['chosen']} {words[0]}"
            block.append(row | {"source": f"part {at % 5}"})
        yield from block[: number - start]


def inspected(path: Path) -> dict[str, Any]:
    """Time, memory and findings of one inspection, measured by itself."""
    from rlhf_forge.inspection.inspect import Settings, inspect
    from rlhf_forge.inspection.reading import Source

    started, before = time.monotonic(), os.times()
    found = inspect([Source(str(path))], Settings())
    after = os.times()
    return {
        "pairs": found.pairs,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(after.user + after.system - before.user - before.system, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "unsure": found.unsure,
        "findings": {finding.code: len(finding.rows) for finding in found.findings},
    }


def main() -> None:
    """Make the file, inspect it in a child, write what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "inspect-large.json")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(inspected(options.child)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.jsonl"
        with path.open("w") as file:
            for row in pairs(options.pairs, seed=0):
                file.write(json.dumps(row) + "\n")
        size = path.stat().st_size
        load = os.getloadavg()[0]
        child = [sys.executable, __file__, "--child", str(path)]
        done = subprocess.run(child, check=True, capture_output=True, text=True)
    made = {
        "command": f"python benchmarks/inspect_large.py --pairs {options.pairs}",
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "file_mb": round(size / 1e6),
        **json.loads(done.stdout),
    }
    options.out.write_text(json.dumps(made, indent=1) + "\n")
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
