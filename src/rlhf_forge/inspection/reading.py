"""Rows of preference data one by one: pairs, and what is none with the reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from rlhf_forge.data.detection import SAMPLE, detect, renamed
from rlhf_forge.data.formats import Format
from rlhf_forge.data.records import BadRecord, Pair
from rlhf_forge.data.sources import read_rows
from rlhf_forge.errors import UserError


@dataclass(frozen=True)
class Source:
    """Where rows come from.

    Attributes:
        path: As `read_rows` takes it.
        split: Of a data set or function.
        held_out: Whether it is kept from training.
    """

    path: str
    split: str = "train"
    held_out: bool = False


@dataclass(frozen=True)
class Reading:
    """One pair of a source, or what stands in its place.

    Attributes:
        origin: Where it stands.
        fields: The row as it was read; empty where it could not be.
        pair: None if the row is none.
        reason: Why it is none.
        broken: Whether the source cannot be read beyond this place.
    """

    origin: str
    fields: dict[str, Any]
    pair: Pair | None
    reason: str = ""
    broken: bool = False


def read_pairs(source: Source, columns: Mapping[str, str], *, seed: int) -> Iterator[Reading]:
    """All rows of a source in order; a line that cannot be read is the last.

    Args:
        source: To read.
        columns: Name in the file for each key that a format wants.
        seed: Handed to a function.

    Raises:
        UserError: If there is nothing to read, or its format is not known or holds no pairs.
    """
    rows = read_rows(source.path, split=source.split, seed=seed)
    first, fault = _first(rows)
    if not first and fault is not None:
        raise fault
    form = detect(_ours(first, columns, source), source.path, kind="pairs", named=columns)
    try:
        for origin, fields in chain(first, rows if fault is None else ()):
            yield _reading(form, origin, fields, columns, source)
    except UserError as error:
        fault = error
    if fault is not None:
        place, _, reason = str(fault).partition(": ")
        yield Reading(place, {}, None, reason, broken=True)


def format_of(source: Source, columns: Mapping[str, str], *, seed: int) -> Format:
    """The format that the first rows have.

    Raises:
        UserError: As `read_pairs`.
    """
    first, fault = _first(read_rows(source.path, split=source.split, seed=seed))
    if not first and fault is not None:
        raise fault
    return detect(_ours(first, columns, source), source.path, kind="pairs", named=columns)


def _first(
    rows: Iterator[tuple[str, dict[str, Any]]],
) -> tuple[list[tuple[str, dict[str, Any]]], UserError | None]:
    """The rows that a format is told by, and what went wrong on the way to them."""
    first = []
    try:
        for row in islice(rows, SAMPLE):
            first.append(row)
    except UserError as error:
        return first, error
    return first, None


def _ours(
    rows: Sequence[tuple[str, dict[str, Any]]], columns: Mapping[str, str], source: Source
) -> list[dict[str, Any]]:
    return renamed([fields for _, fields in rows], columns, source.path)


def _reading(
    form: Format, origin: str, fields: dict[str, Any], columns: Mapping[str, str], source: Source
) -> Reading:
    named = {key: fields.get(column) for key, column in columns.items()}
    complete = dict.fromkeys(form.keys) | fields | named
    try:
        record = form.read(complete, origin)
    except BadRecord as bad:
        return Reading(origin, fields, None, str(bad))
    if not isinstance(record, Pair):
        return Reading(origin, fields, None, "not a pair of answers")
    return Reading(origin, fields, replace(record, fields=fields))
