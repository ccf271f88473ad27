"""A golden file of three rows for each row of the table of formats, beside what is read from it.

The second file says in plain words what the first holds: the reason if it is refused, the name of
the format, the columns that must be named, and a line for each record:
``row: [prompt turns] preferred answer > other answer, and what comes along``.
"""

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_forge.data.detection import detect, renamed
from rlhf_forge.data.format import Kind
from rlhf_forge.data.formats import FORMATS
from rlhf_forge.data.loading import records_of
from rlhf_forge.data.records import BadRecord, Conversation, NoPreference, Pair, Prompt, Record
from rlhf_forge.data.sources import read_rows
from rlhf_forge.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.jsonl"))
# Row 17 groups rows that lie apart, and no real file of it was looked at: it is not promised.
ROWS_OF_THE_TABLE = set(range(1, 35)) - {17}
Row = dict[str, Any]


@dataclass
class Expected:
    """What a golden file's neighbour says of it."""

    refused: str = ""
    form: str = ""
    readings: list[tuple[dict[str, str], list[str]]] = field(default_factory=list)


def expected_of(path: Path) -> Expected:
    found = Expected()
    for line in path.with_suffix(".txt").read_text().splitlines():
        if line.startswith("refused: "):
            found.refused = line.removeprefix("refused: ")
        elif re.match(r"\d+: ", line):
            if not found.readings:
                found.readings.append(({}, []))
            found.readings[-1][1].append(line)
        elif "=" in line:
            found.readings.append((dict(re.findall(r"(\S+)=(\S+)", line)), []))
        else:
            found.form = line
    return found


@cache
def rows_of(path: Path) -> list[tuple[str, Row]]:
    rows = read_rows(str(path), split="train", seed=0)
    return [(origin, fields) for origin, fields in rows if isinstance(fields, dict)]


def turns(conversation: Conversation) -> str:
    return " | ".join(turn["content"].replace("\n", "\\n") for turn in conversation)


def told(number: int, record: Record) -> str:
    line = f"{number}: [{turns(record.prompt)}]"
    if isinstance(record, Prompt):
        return line
    if isinstance(record, NoPreference):
        return f"{line} none: {record.reason}"
    if not isinstance(record, Pair):
        return f"{line} {turns(record.response)}"
    along = [
        f" {key}={value if isinstance(value, str) else format(value, '.3g')}"
        for key in ("margin", "preference", "source")
        if (value := getattr(record, key)) is not None
    ]
    assert record.group in {None, record.origin}
    group = " group" if record.group else ""
    return f"{line} {turns(record.chosen)} > {turns(record.rejected)}{''.join(along)}{group}"


def lines_of(rows: list[tuple[str, Row]], columns: dict[str, str], name: str) -> list[str]:
    sample = [renamed(fields, columns) for _, fields in rows]
    form = detect(sample, "f", kind="prompts", named=columns, name=name)
    lines = []
    for number, (origin, fields) in enumerate(rows, 1):
        try:
            records = records_of(form, columns, origin, fields)
        except BadRecord as bad:
            lines.append(f"{number}: bad: {bad}")
            continue
        assert records
        lines += [told(number, record) for record in records]
        assert {str(record.prompt) for record in records} == {str(records[0].prompt)}
    return lines


def kind_of(expected: Expected) -> Kind:
    form = next((form for form in FORMATS if form.name == expected.form), None)
    return form.gives if form else "pairs"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_is_told_or_refused_without_being_named(path: Path) -> None:
    expected = expected_of(path)
    sample = [fields for _, fields in rows_of(path)]
    assert len(sample) == 3
    if not expected.refused:
        assert detect(sample, "f", kind=kind_of(expected)).name == expected.form
        return
    with pytest.raises(UserError) as caught:
        detect(sample, "f", kind="pairs")
    assert str(caught.value) == f"f: {expected.refused}"
    if expected.form:
        assert caught.value.hint


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_is_read_as_its_neighbour_says(path: Path) -> None:
    expected = expected_of(path)
    assert bool(expected.form) == bool(expected.readings)
    for columns, lines in expected.readings:
        assert lines_of(rows_of(path), columns, expected.form) == lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_says_the_same_from_parquet_which_adds_nulls(
    path: Path, tmp_path: Path
) -> None:
    expected = expected_of(path)
    rows = [fields for _, fields in rows_of(path)]
    columns = dict.fromkeys(key for row in rows for key in row)
    try:
        table = pyarrow.table({key: [row.get(key) for row in rows] for key in columns})
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
        assert {type(row["prompt"]) for row in rows} == {str, list}, "else Parquet can hold it"
        return
    copy = tmp_path / "copy.parquet"
    pyarrow.parquet.write_table(table, copy)
    for names, lines in expected.readings:
        assert lines_of(rows_of(copy), names, expected.form) == lines


def test_every_row_of_the_table_has_a_golden_file_and_every_format_is_in_one() -> None:
    assert {int(path.stem[:2]) for path in FILES} == ROWS_OF_THE_TABLE
    told = {expected_of(path).form for path in FILES}
    refused = {form.name for form in FORMATS if form.refusal and not form.refusal.unless_named}
    assert told - {""} == {form.name for form in FORMATS} - refused
    with pytest.raises(AssertionError):
        FORMATS[-1].read({}, "f:1")


def anything() -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3)
    return st.recursive(plain, lambda x: st.lists(x, max_size=2) | st.dictionaries(keys(), x))


def keys() -> st.SearchStrategy[str]:
    return st.sampled_from(("role", "content", "from", "value", "prompt", "messages", "rank"))


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_spoilt_row_is_bad_or_read_but_never_an_error_of_ours(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([path for path in FILES if expected_of(path).form]))
    expected = expected_of(path)
    form = next(form for form in FORMATS if form.name == expected.form)
    columns, _ = expected.readings[0]
    _, row = data.draw(st.sampled_from(rows_of(path)))
    spoilt = spoil(json.loads(json.dumps(row)), data)
    records: list[Record] = []
    reason = ""
    try:
        records = records_of(form, columns, "f:1", spoilt)
    except BadRecord as bad:
        reason = str(bad)
    assert bool(records) != bool(reason)


def spoil(row: Row, data: st.DataObject) -> Row:
    """Something, at any depth, is replaced by anything."""
    place: Any = row
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else [0]))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
            place = inner
            continue
        place[key] = data.draw(anything())
        return row
