"""What a stage depends on: key by key, and as one string."""

import json
from collections.abc import Iterator, Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from rlhf_forge.artefact import MANIFEST, read_manifest
from rlhf_forge.backbone.loading import content_fingerprint
from rlhf_forge.hub import PACKAGE_PREFIX, base_folder
from rlhf_forge.reward_terms import artefact_in

# Keys that say where a run goes, how it is watched or fed, not what it computes.
NOT_COMPUTED = (
    "config",
    "run",
    "name",
    "ckpt_path",
    "checkpoint_every",
    "keep_checkpoints",
    "trainer",
)
NOT_COMPUTED_OF_DATA = ("workers",)
PARENTS = ("sft", "reward")
# What a function of the reward may take: longer, if a run is to go on that stopped at it; and
# whether a run may start.
NOT_COMPUTED_OF_MODEL = ("reward_timeout", "accept_bad_card")
# Keys of the data that may name a file or a folder.
FILES = ("path", "validation", "chat_template")
# Lightning's callbacks that only watch. Any other may end a run early or change what it learns.
WATCHERS = ("Monitor", "ProgressBar", "Checkpoint", "Summary", "Timer")
OURS = "rlhf_forge."
CONTENTS = "the contents of "
MOST_CHANGES = 3


def dependencies_of(config: Mapping[str, Any]) -> dict[str, str]:
    """All that a stage computes from: its keys, and the contents of base, parents and files.

    What is called by a name stands for itself: a data set or model of the hub, a function.

    Args:
        config: Of one stage, as parsed, defaults and parents' paths filled in.

    Returns:
        For each key its value as JSON, and under `CONTENTS` + key a hash of what it names.

    Raises:
        UserError: If the base's folder holds no whole model.
    """
    arguments, data = config["model"]["init_args"], config["data"]
    kept = {key: value for key, value in config.items() if key not in NOT_COMPUTED}
    kept["data"] = {k: v for k, v in data.items() if k not in NOT_COMPUTED_OF_DATA}
    computed = {k: v for k, v in arguments.items() if k not in NOT_COMPUTED_OF_MODEL}
    kept["model"] = {**config["model"], "init_args": computed}
    callbacks = _that_may_interfere(config.get("trainer", {}).get("callbacks"))
    if callbacks:
        kept["trainer"] = {"callbacks": callbacks}
    contents = {"model.init_args.backbone.path": _base(arguments["backbone"]["path"])}
    for parent in PARENTS:
        artefact = artefact_in(arguments.get(parent))
        if artefact is not None:
            contents[f"model.init_args.{parent}"] = _parent(artefact)
    judge = artefact_in((config.get("watch") or {}).get("judge"))
    if judge is not None:
        contents["watch.judge"] = _parent(judge)
    contents |= {f"data.{key}": _content(data[key]) for key in FILES if data.get(key)}
    return dict(_flat(kept)) | {f"{CONTENTS}{key}": value for key, value in contents.items()}


def fingerprint_of(dependencies: Mapping[str, str]) -> str:
    """SHA-256 over what `dependencies_of` found."""
    return sha256(json.dumps(dependencies, sort_keys=True).encode()).hexdigest()


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Up to three things that differ, in words; "" if nothing does."""
    keys = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
    named = [key for key in keys if not key.startswith(CONTENTS)]
    # A path that changed says it all; what it names has changed with it.
    named += [key for key in keys - set(named) if key.removeprefix(CONTENTS) not in named]
    named.sort(key=lambda key: (key.startswith(CONTENTS), key))
    told = [
        key
        if key.startswith(CONTENTS)
        else f"{key} (was {before.get(key, 'not set')}, is {now.get(key, 'not set')})"
        for key in named[:MOST_CHANGES]
    ]
    more = len(named) - len(told)
    return ", ".join(told) + (f" and {more} more" if more else "")


def has_finished(artefact: Path, fingerprint: str) -> bool:
    """Whether a stage with this fingerprint has left its artefact.

    One that EarlyStopping ended counts: the callback is part of the config, and of the fingerprint.

    Raises:
        UserError: If the manifest there is broken.
    """
    return (artefact / MANIFEST).is_file() and read_manifest(artefact).fingerprint == fingerprint


def _that_may_interfere(callbacks: Any) -> list[Any]:
    given = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    return [callback for callback in given if not _only_watches(str(callback["class_path"]))]


def _only_watches(class_path: str) -> bool:
    of_lightning = class_path.startswith(("lightning.", "pytorch_lightning."))
    return class_path.startswith(OURS) or (of_lightning and class_path.endswith(WATCHERS))


def _flat(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", json.dumps(value, sort_keys=True, default=str)


def _base(name: str) -> str:
    if name.startswith(PACKAGE_PREFIX) or Path(name).expanduser().is_dir():
        return content_fingerprint(base_folder(name))
    return name


def _parent(folder: str) -> str:
    try:
        fields = json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))
        return str(fields["fingerprint"])
    except (OSError, json.JSONDecodeError, KeyError):
        return "missing"


def _content(name: str) -> str:
    """Of a file, or of a folder that `datasets` saved; anything else is its name."""
    place = Path(name).expanduser()
    if place.is_file():
        return _hash(place)
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.is_file())
        listed = [(path.relative_to(place).as_posix(), _hash(path)) for path in files]
        return sha256(json.dumps(listed).encode()).hexdigest()
    return name


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
