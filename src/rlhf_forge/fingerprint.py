"""What a finished stage depends on, as one string."""

import json
from collections.abc import Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from rlhf_forge.artefact import MANIFEST, read_manifest
from rlhf_forge.backbone.loading import content_fingerprint
from rlhf_forge.hub import PACKAGE_PREFIX, base_folder

# Keys that say where a run goes or how it is watched, not what it computes.
NOT_COMPUTED = ("config", "run", "ckpt_path", "checkpoint_every", "trainer")
PARENTS = ("sft", "reward")
# Keys of the data that may name a file.
FILES = ("path", "validation", "chat_template")


def fingerprint_of(config: Mapping[str, Any]) -> str:
    """SHA-256 over a stage's config, its seed, and the contents of base, parents and files.

    What is called by a name stands for itself: a data set or model of the hub, a function.

    Args:
        config: Of one stage, as parsed, defaults and parents' paths filled in.

    Raises:
        UserError: If the base's folder holds no whole model.
    """
    kept = {key: value for key, value in config.items() if key not in NOT_COMPUTED}
    arguments, data = config["model"]["init_args"], config["data"]
    contents = [
        _base(arguments["backbone"]["path"]),
        *(_parent(arguments[parent]) for parent in PARENTS if arguments.get(parent)),
        *(_file(data.get(key)) for key in FILES),
    ]
    text = json.dumps([kept, contents], sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()


def has_finished(artefact: Path, fingerprint: str) -> bool:
    """Whether a stage with this fingerprint has left its artefact.

    Raises:
        UserError: If the manifest there is broken.
    """
    return (artefact / MANIFEST).is_file() and read_manifest(artefact).fingerprint == fingerprint


def _base(name: str) -> str:
    if name.startswith(PACKAGE_PREFIX) or Path(name).is_dir():
        return content_fingerprint(base_folder(name))
    return name


def _parent(folder: str) -> str:
    try:
        fields = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
        return str(fields["fingerprint"])
    except (OSError, json.JSONDecodeError, KeyError):
        return "missing"


def _file(name: str | None) -> str:
    if name is None or not Path(name).is_file():
        return str(name)
    with Path(name).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
