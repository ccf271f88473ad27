"""Reading files of rows; an error names the line."""

import csv
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rlhf_forge.data.records import BrokenLine
from rlhf_forge.errors import UserError

Row = tuple[str, dict[str, Any] | BrokenLine]
Numbered = Iterator[tuple[int, Any]]

BLANK = re.compile(r"\s*")
UTF8, LATER = "utf-8-sig", "surrogateescape"
SURROGATE = re.compile("[\ud800-\udfff]")
NO_TEXT, TOO_DEEP = "not UTF-8 text", "JSON nested too deep"
TOO_LONG = "an integer of too many digits"


def read_file(place: Path) -> Iterator[Row]:
    """The rows of a file, each with ``file:line``, or ``file row n`` where there are no lines.

    One row after the other: nothing but a JSON array is held whole. A line of JSONL that is broken
    is a row too, a bad one. Elsewhere nobody knows where the next row begins: a quote that is not
    closed swallows the lines behind it, and so the whole file is refused.

    Raises:
        UserError: If it cannot be read to its end.
    """
    suffix = place.with_suffix("").suffix if place.suffix == ".gz" else place.suffix
    if suffix not in READERS:
        raise UserError(
            f"{place}: cannot read files ending in {suffix or 'nothing'!r}",
            hint=f"known: {', '.join(READERS)}, and .gz of the first three",
        )
    separator = " row " if suffix in COLUMNAR else ":"
    try:
        for number, fields in READERS[suffix](place):
            origin = f"{place}{separator}{number}"
            if not isinstance(fields, dict | BrokenLine):
                reason = f"a {type(fields).__name__}, where an object is wanted"
                fields = BrokenLine(reason, json.dumps(fields))
            yield origin, fields
    except OSError as error:
        raise UserError(f"{place}: cannot be read: {error.strerror or error}") from None


def _text(place: Path) -> TextIO:
    """The file as text, in which bytes that are none stand as lone surrogates."""
    # A decoder that refuses them does so for a whole block, lines before theirs included.
    if place.suffix == ".gz":
        return gzip.open(place, "rt", encoding=UTF8, errors=LATER, newline="")
    return place.open(encoding=UTF8, errors=LATER, newline="")


def _lines(place: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of text; one that is none has its number in the error."""
    for number, line in _raw_lines(place):
        if SURROGATE.search(line):
            raise UserError(f"{place}:{number}: {NO_TEXT}", hint="save the file as UTF-8")
        yield number, line


def _raw_lines(place: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines; one that cannot be unpacked has its number in the error."""
    number = 0
    with _text(place) as file:
        try:
            for number, line in enumerate(file, 1):
                yield number, line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(
                f"{place}:{number + 1}: broken gzip file: {error}",
                hint="copy or download it again",
            ) from None


def _read_jsonl(place: Path) -> Numbered:
    for number, line in _raw_lines(place):
        if line.strip():
            yield number, _object_in(line)


def _object_in(line: str) -> Any:
    """What stands in one line, or what is wrong with it."""
    if SURROGATE.search(line):
        return BrokenLine(NO_TEXT, line)
    try:
        return json.loads(line.rstrip("\r\n"))  # or a column of the next line would be told
    except json.JSONDecodeError as error:
        return BrokenLine(_told(error), line)
    except ValueError:  # Python reads integers of 4300 digits and no longer ones
        return BrokenLine(TOO_LONG, line)
    except RecursionError:
        return BrokenLine(TOO_DEEP, line)


def _read_json(place: Path) -> Numbered:
    first = next((line for _, line in _raw_lines(place) if line.strip()), "")
    if not first.lstrip().startswith("["):
        # A .json file of one object a line is common enough to read as what it is.
        return _read_jsonl(place)
    text = "".join(line for _, line in _lines(place))
    return _items(place, text, text.index("[") + 1)


def _items(place: Path, text: str, at: int) -> Numbered:
    """Elements of an array whose bracket ended at ``at``, each with its first line's number."""
    decoder = json.JSONDecoder()
    number, counted = 1, 0
    at = _skip_blank(text, at)
    separator = "]" if text[at : at + 1] == "]" else ","
    while separator == ",":
        number, counted = number + text.count("\n", counted, at), at
        try:
            fields, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            message = f"{place}:{error.lineno}: {_told(error)}"
            raise UserError(message, hint="mend the file; one array is read whole") from None
        except ValueError:
            raise UserError(f"{place}:{number}: {TOO_LONG}") from None
        except RecursionError:
            raise UserError(f"{place}:{number}: {TOO_DEEP}") from None
        yield number, fields
        at = _skip_blank(text, at)
        separator = text[at : at + 1]
        if separator not in {",", "]"}:
            raise UserError(
                f"{place}:{_line_at(text, at)}: broken JSON: neither , nor ] behind an element"
            )
        at = _skip_blank(text, at + 1) if separator == "," else at
    at = _skip_blank(text, at + 1)
    if at < len(text):
        raise UserError(
            f"{place}:{_line_at(text, at)}: broken JSON: something behind the array's end",
            hint="one array a file; or one object a line, without brackets",
        )


def _line_at(text: str, at: int) -> int:
    return 1 + text.count("\n", 0, at)


def _skip_blank(text: str, at: int) -> int:
    match = BLANK.match(text, at)
    return match.end() if match else at


def _told(error: json.JSONDecodeError) -> str:
    """What is wrong, and where in its line; some of the messages end with the word "at"."""
    return f"broken JSON: {error.msg.removesuffix(' at')} at column {error.colno}"


def _read_csv(place: Path) -> Numbered:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader((line for _, line in _lines(place)), strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{place}:{number}: broken CSV: {error}") from None
        if cells is None:
            return
        if header is None:
            header = _checked_header(place, number, cells)
        elif cells:
            if len(cells) != len(header):
                raise UserError(
                    f"{place}:{number}: {len(cells)} columns, and the header has {len(header)}",
                    hint='a text with commas or line breaks stands between "quotes"',
                )
            yield number, dict(zip(header, cells, strict=True))


def _checked_header(place: Path, number: int, header: list[str]) -> list[str]:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{place}:{number}: the header has {', '.join(twice)} twice")
    return header


def _read_parquet(place: Path) -> Numbered:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(place) as file:
            yield from _numbered(file.iter_batches())
    except pyarrow.ArrowException as error:
        raise UserError(f"{place}: not a whole Parquet file: {error}") from None


def _read_arrow(place: Path) -> Numbered:
    import pyarrow

    try:
        with pyarrow.memory_map(str(place)) as source:
            yield from _numbered(_arrow_batches(source))
    except pyarrow.ArrowException as error:
        raise UserError(f"{place}: not a whole Arrow file: {error}") from None


def _arrow_batches(source: Any) -> Iterator[Any]:
    """Record batches of a file or, as `datasets` writes its cache, of a stream."""
    from pyarrow import ArrowInvalid, ipc

    try:
        file = ipc.open_file(source)
    except ArrowInvalid:
        source.seek(0)
        yield from ipc.open_stream(source)
    else:
        yield from map(file.get_batch, range(file.num_record_batches))


def _numbered(batches: Iterable[Any]) -> Numbered:
    yield from enumerate((fields for batch in batches for fields in batch.to_pylist()), 1)


COLUMNAR = {".parquet", ".arrow"}
READERS: dict[str, Callable[[Path], Numbered]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
