"""What a finished stage depends on, as one string."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from rlhf_forge.artefact import MANIFEST
from rlhf_forge.data.sources import is_function

# Keys that say where a run goes or how it is watched, not what it computes.
NOT_COMPUTED = ("config", "run", "ckpt_path", "checkpoint_every", "weights_only", "verbose")


def fingerprint_of(config: dict[str, Any]) -> str:
    """SHA-256 over a stage's config, its seed, its parents' fingerprints and its data's bytes.

    Args:
        config: Of one stage, as parsed, defaults and parents' paths filled in.
    """
    kept = {key: value for key, value in config.items() if key not in NOT_COMPUTED}
    kept.pop("trainer", None)
    digest = sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    arguments = config["model"]["init_args"]
    for parent in ("sft", "reward"):
        if arguments.get(parent):
            digest.update(_parent_fingerprint(Path(arguments[parent])).encode())
    for key in ("path", "validation"):
        digest.update(_content(config["data"].get(key)).encode())
    return digest.hexdigest()


def _parent_fingerprint(folder: Path) -> str:
    try:
        fingerprint: str = json.loads((folder / MANIFEST).read_text())["fingerprint"]
    except (OSError, json.JSONDecodeError, KeyError):
        return "missing"
    return fingerprint


def _content(source: str | None) -> str:
    """Hash of a data file's bytes; a function or a hub name stands for itself."""
    if source is None or is_function(source) or not Path(source).is_file():
        return str(source)
    return sha256(Path(source).read_bytes()).hexdigest()
