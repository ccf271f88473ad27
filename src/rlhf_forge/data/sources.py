"""Reading rows, each with the place it came from."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_forge.data.files import READERS, Row, read_file
from rlhf_forge.data.functions import is_function, load_function
from rlhf_forge.errors import UserError
from rlhf_forge.parsing import first_line

# Where `datasets` lists the splits of a folder that has any.
SPLITS = "dataset_dict.json"
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")


def read_rows(path: str, *, split: str, seed: int) -> Iterator[Row]:
    """The rows of ``path``, each as (origin, fields); a broken line stands for its fields.

    Args:
        path: A file (.jsonl, .json, .csv, .parquet, .arrow; .gz of the first three), a folder
            written by ``datasets``, a data set's name on the hub (``owner/name`` or
            ``owner/name:config``), or ``module:function``.
        split: Which split of a data set; handed to a function; a file is taken as it is.
        seed: Handed to a function, which is called as ``function(seed=..., split=...)`` and
            returns a list of dicts.

    Raises:
        UserError: If there is nothing to read, or it cannot be read to its end: with file, line
            and reason.
    """
    empty = True
    for row in _open(path, split, seed):
        empty = False
        yield row
    if empty:
        raise UserError(f"{path}: empty: not one record in it")


def _open(path: str, split: str, seed: int) -> Iterator[Row]:
    if is_function(path):
        return _from_function(path, split=split, seed=seed)
    place = Path(path).expanduser()
    if place.is_dir():
        return _from_data_set(path, split, _load_folder(place))
    if place.exists():
        return read_file(place)
    hub = HUB_NAME.fullmatch(path)
    if hub and not {".gz", *READERS} & set(place.suffixes):
        return _from_data_set(path, split, _load_hub(hub[1], hub[2], split))
    raise _missing(place)


def require_used(key: str, split: str, path: str, *, default: str) -> None:
    """Refuse a split that was asked of a file, or of a folder with one table: they have none.

    Args:
        key: Of the split, for the message.
        split: What was asked for.
        path: Where the rows come from.
        default: What stands there if nobody asked.

    Raises:
        UserError: If it would be ignored.
    """
    place = Path(path).expanduser()
    has_none = place.is_file() or (place.is_dir() and not (place / SPLITS).is_file())
    if split != default and has_none and not is_function(path):
        raise UserError(
            f"{key}: {split}: {path} has no splits",
            hint="leave it out; splits are of data sets with several, and of functions",
        )


def _missing(place: Path) -> UserError:
    folder = place.parent if place.parent.is_dir() else Path()
    names = sorted(entry.name for entry in folder.iterdir())
    near = difflib.get_close_matches(place.name, names, n=1)
    return UserError(
        f"data.path: no such file: {place}",
        hint=f"did you mean {folder / near[0]}?"
        if near
        else "give a file, a folder that `datasets` saved, a hub name or module:function",
    )


def _from_function(path: str, *, split: str, seed: int) -> Iterator[Row]:
    try:
        function = load_function(path)
    except UserError as error:
        raise UserError(f"data.path: {error}", hint=error.hint) from error
    try:
        rows = function(seed=seed, split=split)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{path}: raised {type(error).__name__}: {first_line(error)}",
            hint="it is called as function(seed=..., split=...) and returns a list of dicts",
        ) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: must return a list of dicts, gave a {type(rows).__name__}")
    yield from ((f"{path} row {number}", fields) for number, fields in enumerate(rows, 1))


def _from_data_set(path: str, split: str, data: Any) -> Iterator[Row]:
    if hasattr(data, "keys"):
        if split not in data:
            raise UserError(
                f"{path}: no split {split!r}", hint=f"set data.split to {' or '.join(data)}"
            )
        data = data[split]
    yield from ((f"{path} [{split}] row {number}", fields) for number, fields in enumerate(data, 1))


def _load_folder(place: Path) -> Any:
    from datasets import load_from_disk

    try:
        return load_from_disk(str(place))
    except FileNotFoundError:
        names = sorted(p.name for p in place.iterdir() if set(p.suffixes) & READERS.keys())
        raise UserError(
            f"{place}: a folder, but not one that `datasets` saved (save_to_disk)",
            hint=f"give a file in it: {', '.join(names[:5])}" if names else "it holds no data",
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{place}: broken, or not what `datasets` saved: {first_line(error)}",
            hint="save it again with save_to_disk",
        ) from None


def _load_hub(name: str, config: str | None, split: str) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return load_dataset(name, config, split=split)
    except DatasetNotFoundError as error:
        raise UserError(
            f"data.path: no such file here, and the hub does not give {name}: {first_line(error)}",
            hint="check the spelling; for a gated or private data set `hf auth login` first",
        ) from None
    except (ConnectionError, OSError, ValueError) as error:
        raise UserError(
            f"data.path: no such file here, and {name} cannot be had from the hub: "
            f"{type(error).__name__}: {first_line(error)}",
            hint="give a file's path, or download it first where there is a network",
        ) from None
