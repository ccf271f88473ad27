"""Records of preference data one by one: pairs, and what is none with the reason."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from rlhf_forge.data.detection import SAMPLE, detect, readable, renamed, require_columns
from rlhf_forge.data.files import Row
from rlhf_forge.data.format import Format
from rlhf_forge.data.loading import records_of
from rlhf_forge.data.records import BadRecord, BrokenLine, NoPreference, Pair, Record
from rlhf_forge.data.sources import read_rows
from rlhf_forge.errors import UserError

DIFFERENT_CONTEXTS = "chosen and rejected differ before their last turn"


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
class Wording:
    """How the person says a source is to be read.

    Attributes:
        columns: Name in the file for each key that a format wants.
        form: Name of the format; None to tell it from the first rows.
        seed: Handed to a function.
    """

    columns: Mapping[str, str]
    form: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Reading:
    """One record of a source; a row may hold several.

    Attributes:
        origin: Where it stands.
        fields: The row, without what is private in it; empty where it could not be read.
        pair: None if the record is none.
        code: Rule that it breaks by being none.
        reason: Why it is none.
    """

    origin: str
    fields: dict[str, Any]
    pair: Pair | None
    code: str = ""
    reason: str = ""


def read_pairs(source: Source, wording: Wording) -> Iterator[Reading]:
    """All records of a source in order; where a file is broken for good, that is the last.

    Raises:
        UserError: If there is nothing to read, or its format is not known or holds no pairs.
    """
    rows = read_rows(source.path, split=source.split, seed=wording.seed)
    first, fault = _first(rows)
    form = _form(first, fault, source, wording)
    try:
        for origin, fields in chain(first, rows if fault is None else ()):
            yield from _readings(form, origin, fields, wording)
    except UserError as error:
        fault = error
    if fault is not None:
        place, _, reason = str(fault).partition(": ")
        yield Reading(place, {}, None, "PREF101", f"{reason}; nothing behind it was read")


def format_of(source: Source, wording: Wording) -> Format:
    """The format that the first rows have.

    Raises:
        UserError: As `read_pairs`.
    """
    rows = read_rows(source.path, split=source.split, seed=wording.seed)
    return _form(*_first(rows), source, wording)


def _first(rows: Iterator[Row]) -> tuple[list[Row], UserError | None]:
    """The rows that a format is told by, and what went wrong on the way to them."""
    first = []
    try:
        for row in islice(rows, SAMPLE):
            first.append(row)
    except UserError as error:
        return first, error
    return first, None


def _form(first: list[Row], fault: UserError | None, source: Source, wording: Wording) -> Format:
    if not first and fault is not None:
        raise fault
    rows = readable(first)
    require_columns(rows, wording.columns, source.path)
    ours = [renamed(fields, wording.columns) for fields in rows]
    return detect(ours, source.path, kind="pairs", named=wording.columns, name=wording.form)


def _readings(
    form: Format, origin: str, fields: dict[str, Any] | BrokenLine, wording: Wording
) -> Iterator[Reading]:
    try:
        records = records_of(form, wording.columns, origin, fields)
    except BadRecord as bad:
        reason = str(bad).split(":")[0]  # what stands behind differs from record to record
        if isinstance(fields, BrokenLine):
            yield Reading(origin, {}, None, "PREF101", reason)
            return
        kept = {key: value for key, value in fields.items() if key not in form.private}
        code = "PREF103" if reason == DIFFERENT_CONTEXTS else "PREF102"
        yield Reading(origin, kept, None, code, reason)
        return
    yield from (_reading(record) for record in records)


def _reading(record: Record) -> Reading:
    if isinstance(record, Pair):
        return Reading(record.origin, record.fields, record)
    if isinstance(record, NoPreference):
        return Reading(record.origin, record.fields, None, "PREF106", record.reason)
    return Reading(record.origin, record.fields, None, "PREF102", "not a pair of answers")
