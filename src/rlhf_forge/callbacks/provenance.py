"""What a stage was trained on and with, for who reads the run later."""

import json
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rlhf_forge.run_folder import PROVENANCE

PACKAGES = (
    "rlhf_forge",
    "torch",
    "lightning",
    "transformers",
    "peft",
    "bitsandbytes",
    "datasets",
    "tokenizers",
)
SOURCE = Path(__file__).parents[3]


def write_provenance(data: Any, folder: Path) -> None:
    """Write ``provenance.json`` into a stage's folder.

    Args:
        data: The stage's data module, set up.
        folder: Of the stage.
    """
    found = {
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "commit": _commit(),
        "threads": torch.get_num_threads(),
        "data": data_facts(data),
    }
    text = json.dumps(found, indent=1)
    (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8")


def data_facts(data: Any) -> dict[str, Any]:
    """Counts of the training source's records, and the fingerprint of what is trained on."""
    tally = data.train.tally
    return {
        "path": data.path,
        "format": data.train.form.name,
        "records": tally.read,
        "skipped": {reason: len(origins) for reason, origins in tally.skipped.items()},
        "train": len(data.train.examples),
        "held_out": len(data.held_out),
        "fingerprint": data.fingerprint(),
    }


def _commit() -> str | None:
    """What the source is at, a plus behind it if it was changed since; None if none knows."""
    if not (SOURCE / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(SOURCE), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
