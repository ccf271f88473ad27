"""Reading rows, each with the place it came from."""

import csv
import difflib
import gzip
import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rlhf_forge.errors import UserError

Row = tuple[str, dict[str, Any]]

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def read_rows(path: str, *, split: str, seed: int) -> Iterator[Row]:
    """The rows of ``path``, each as (origin, fields).

    Args:
        path: A file (.jsonl, .json, .csv, .parquet; .gz of the first three), a folder written by
            ``datasets``, a data set's name on the hub, or ``module:function``.
        split: Which split of a data set; handed to a function.
        seed: Handed to a function, which is called as ``function(seed=..., split=...)`` and
            returns a list of dicts.

    Raises:
        UserError: If there is nothing to read, or a line is broken: with file, line and reason.
    """
    if FUNCTION.fullmatch(path):
        return _from_function(path, split=split, seed=seed)
    place = Path(path).expanduser()
    if place.is_dir():
        return _from_data_set(path, split, lambda: _load_folder(place))
    if place.is_file():
        return _from_file(place)
    if HUB_NAME.fullmatch(path) and place.suffix not in READERS:
        return _from_data_set(path, split, lambda: _load_hub(path, split))
    raise _missing(place)


def is_function(path: str) -> bool:
    """Whether ``path`` names a Python function."""
    return FUNCTION.fullmatch(path) is not None


def _missing(place: Path) -> UserError:
    folder = place.parent if place.parent.is_dir() else Path()
    names = [entry.name for entry in folder.iterdir()]
    near = difflib.get_close_matches(place.name, names, n=1)
    hint = f"did you mean {folder / near[0]}?" if near else "give a file, a folder or a hub name"
    return UserError(f"data.path: no such file: {place}", hint=hint)


def _from_file(place: Path) -> Iterator[Row]:
    suffix = place.with_suffix("").suffix if place.suffix == ".gz" else place.suffix
    reader = READERS.get(suffix)
    if reader is None:
        raise UserError(
            f"{place}: cannot read files ending in {suffix or 'nothing'!r}",
            hint=f"known: {', '.join(READERS)}, and .gz of them",
        )
    empty = True
    for line, fields in reader(place):
        empty = False
        if not isinstance(fields, dict):
            raise UserError(f"{place}:{line}: a {type(fields).__name__}, where an object is wanted")
        yield f"{place}:{line}", fields
    if empty:
        raise UserError(f"{place}: empty: not one record in it")


def _text(place: Path) -> TextIO:
    opened = gzip.open if place.suffix == ".gz" else open
    return opened(place, "rt", encoding="utf-8", newline="")  # type: ignore[return-value]


def _read_jsonl(place: Path) -> Iterator[tuple[int, Any]]:
    with _text(place) as lines:
        for number, line in _checked(place, lines):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{place}:{number}: broken JSON: {error.msg} at column {error.colno}"
                ) from None


def _checked(place: Path, lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Numbered lines, with a line number in the error where the bytes are not UTF-8."""
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            yield number, line
    except UnicodeDecodeError:
        raise UserError(f"{place}:{number + 1}: not UTF-8 text") from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"{place}:{number + 1}: broken gzip file ({error})") from None


def _read_json(place: Path) -> Iterator[tuple[int, Any]]:
    with _text(place) as file:
        text = "".join(line for _, line in _checked(place, file))
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        # A .json file of one object a line is common enough to read as what it is.
        if error.msg != "Extra data":
            raise UserError(f"{place}:{error.lineno}: broken JSON: {error.msg}") from None
        yield from _read_jsonl(place)
        return
    if not isinstance(rows, list):
        raise UserError(f"{place}: a JSON {type(rows).__name__}, where an array is wanted")
    yield from enumerate(rows, 1)


def _read_csv(place: Path) -> Iterator[tuple[int, Any]]:
    with _text(place) as file:
        reader = csv.DictReader(line for _, line in _checked(place, file))
        for fields in reader:
            if None in fields or None in fields.values():
                raise UserError(
                    f"{place}:{reader.line_num}: {len(reader.fieldnames or ())} columns in the "
                    "header, another number here"
                )
            yield reader.line_num, fields


def _read_parquet(place: Path) -> Iterator[tuple[int, Any]]:
    from datasets import Dataset

    try:
        data = Dataset.from_parquet(str(place), keep_in_memory=True)
    except Exception as error:
        raise UserError(f"{place}: not a Parquet file ({type(error).__name__})") from error
    yield from enumerate(data, 1)


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _from_function(path: str, *, split: str, seed: int) -> Iterator[Row]:
    module_name, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"data.path: no function {path} ({error})") from None
    rows = function(seed=seed, split=split)
    if not rows:
        raise UserError(f"{path}: gave no records for split {split!r}")
    yield from ((f"{path} row {number}", fields) for number, fields in enumerate(rows, 1))


def _from_data_set(path: str, split: str, load: Callable[[], Any]) -> Iterator[Row]:
    data = load()
    if hasattr(data, "keys"):
        if split not in data:
            raise UserError(f"{path}: no split {split!r}; it has {', '.join(data)}")
        data = data[split]
    if not len(data):
        raise UserError(f"{path}: empty: not one record in split {split!r}")
    yield from ((f"{path}[{split}] row {number}", fields) for number, fields in enumerate(data, 1))


def _load_folder(place: Path) -> Any:
    from datasets import load_from_disk

    try:
        return load_from_disk(str(place))
    except FileNotFoundError:
        raise UserError(
            f"{place}: a folder, but not one that datasets' save_to_disk wrote",
            hint="give one of the files in it",
        ) from None


def _load_hub(name: str, split: str) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return load_dataset(name, split=split)
    except DatasetNotFoundError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"data.path: no such file here, and the hub does not give {name}: {reason}",
            hint="check the spelling; for a gated or private data set `hf auth login` first",
        ) from None
    except (ConnectionError, OSError, ValueError) as error:
        raise UserError(
            f"data.path: no such file here, and {name} cannot be had from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from None
