"""The quickstart, unchanged, on whatever device Lightning finds: row G8 of gpu.py."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

from quickstart import misses

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "quickstart"
# What makes a toy of it: the same stages, a step or two each.
SMALLER = {
    "total_steps": 2,
    "total_iterations": 1,
    "number": 8,
    "batch_size": 8,
    "minibatch_size": 4,
    "max_new_tokens": 8,
    "every": 1,
    "validation_limit": 32,
}


def quickstart(
    folder: Path, *, toy: bool, seconds: float, tell: Callable[[dict[str, Any]], None]
) -> None:
    """Train and evaluate as the README says, seed 0, and tell the gain and what was missed."""
    configs = smaller(folder) if toy else CONFIGS
    command = [sys.executable, "-m", "rlhf_forge", "pipeline", str(configs), "--run", "gpu"]
    log = folder / "log"
    with log.open("w") as file:
        status = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if toy else {}),
            stdout=file,
            stderr=file,
            timeout=max(1.0, seconds - 2),
            check=False,
        ).returncode
    summary = folder / "lightning_logs" / "gpu" / "summary.json"
    if not summary.is_file():
        raise RuntimeError(f"exit {status}: {last_line(log)}")
    found = json.loads(summary.read_text()) | {"precision": "fp32"}
    missed = misses(found)
    tell(
        {
            "what": "the quickstart, fp32, seed 0: gain of PPO over SFT",
            "value": found["gain"]["gold"],
            "unit": "gold",
            "goal": "misses nothing",
            "met": None if toy else not missed,
            "misses": missed,
            "seconds": found["seconds"],
        }
    )


def smaller(folder: Path) -> Path:
    """A copy of the configs whose stages are a step or two long."""
    place = folder / "quickstart"
    copytree(CONFIGS, place)
    for path in place.glob("*.yaml"):
        text = path.read_text()
        for key, value in SMALLER.items():
            text = re.sub(rf"\b{key}: \d+", f"{key}: {value}", text)
        if path.name == "ppo.yaml":  # two steps make no reward model that its card vouches for
            text = text.replace("init_args:\n", "init_args:\n    accept_bad_card: true\n", 1)
        path.write_text(text)
    return place


def last_line(log: Path) -> str:
    """Of what the command said."""
    return (log.read_text().strip().splitlines() or ["nothing was told"])[-1]
