"""A data source as tokenized examples, with what was found on the way."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from itertools import chain, islice
from typing import Any

from rlhf_forge.data.bad_records import OnBad
from rlhf_forge.data.detection import SAMPLE, detect, readable, renamed, require_columns
from rlhf_forge.data.files import Row
from rlhf_forge.data.format import Format, Kind
from rlhf_forge.data.records import BrokenLine, Record
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.sources import read_rows
from rlhf_forge.data.tokenize import (
    DemonstrationExample,
    Example,
    PairExample,
    Tally,
    tokenize,
)

SHOWN_CHARACTERS = 400


@dataclass(frozen=True)
class Loaded:
    """Examples and where they came from.

    Attributes:
        path: The source.
        form: The format that was detected.
        examples: In the order of the source.
        tally: What became of every record.
    """

    path: str
    form: Format
    examples: list[Example]
    tally: Tally

    @cached_property
    def _digest(self) -> str:
        return digest_of(self.examples)

    def fingerprint(self) -> str:
        """SHA-256 over tokens, targets and labels of all examples, in order."""
        return self._digest

    def summary(self, template: ChatTemplate, kind: Kind) -> list[str]:
        """What was detected, what became of the records, and the first one as the model sees it."""
        first, *rest = self.tally.lines()
        return [
            f"data: {self.path}: format {self.form.name!r} ({self.form.mapping})",
            f"  {first}, as {kind}",
            *(f"  {line}" for line in rest),
            *(
                f"  {name}: {_marked(*side, template)}"
                for name, side in sides_of(self.examples[0]).items()
            ),
        ]


def load_examples(  # noqa: PLR0913 - what a config says of data
    path: str,
    template: ChatTemplate,
    *,
    split: str,
    columns: Mapping[str, str],
    kind: Kind,
    max_length: int,
    on_bad: OnBad,
    seed: int,
    form: str | None = None,
) -> Loaded:
    """Read, detect and tokenize a source, row by row: no row is held that is not used.

    Args:
        path: As `read_rows`.
        template: Renders the records.
        split: Of a data set or function.
        columns: Name in the file for each key that a format wants.
        kind: What the stage learns from.
        max_length: Longest example, tokens.
        on_bad: As `tokenize`.
        seed: Handed to a function.
        form: Name of the format; None to tell it from the first rows.

    Raises:
        UserError: With file, line and reason.
    """
    rows = read_rows(path, split=split, seed=seed)
    first = list(islice(rows, SAMPLE))
    sample = readable(first)
    require_columns(sample, columns, path)
    sample = [renamed(fields, columns) for fields in sample]
    found = detect(sample, path, kind=kind, named=columns, name=form)
    examples, tally = tokenize(
        _readers(found, columns, chain(first, rows)),
        template,
        kind=kind,
        max_length=max_length,
        on_bad=on_bad,
    )
    return Loaded(path, found, examples, tally)


def digest_of(examples: Iterable[Example]) -> str:
    """SHA-256 over tokens, targets and labels of all examples, in order."""
    digest = sha256()
    for example in examples:
        if isinstance(example, PairExample):
            labels = (example.record.margin, example.record.preference, example.weight)
            if labels != (None, None, 1.0):
                digest.update(repr(labels).encode())
        for tokens, marks in sides_of(example).values():
            # Lengths keep two sequences from reading like one.
            digest.update(array("q", [len(tokens), *tokens]).tobytes() + bytes(marks))
    return digest.hexdigest()


def sides_of(example: Example) -> dict[str, tuple[Sequence[int], Sequence[bool]]]:
    """Tokens of each side of an example, and which of them are learnt or compared."""
    if isinstance(example, PairExample):
        return {
            "chosen": (example.chosen, example.chosen_response),
            "rejected": (example.rejected, example.rejected_response),
        }
    if isinstance(example, DemonstrationExample):
        return {"demonstration": (example.tokens, example.targets)}
    return {"prompt": (example.tokens, [False] * len(example.tokens))}


def _readers(
    form: Format, columns: Mapping[str, str], rows: Iterable[Row]
) -> Iterator[tuple[str, Callable[[], list[Record]]]]:
    for origin, fields in rows:
        yield origin, partial(records_of, form, columns, origin, fields)


def records_of(
    form: Format, columns: Mapping[str, str], origin: str, fields: dict[str, Any] | BrokenLine
) -> list[Record]:
    """The records of one row, each with the row as it was read, less what is private in it.

    Raises:
        BadRecord: If the row cannot be used.
    """
    if isinstance(fields, BrokenLine):
        raise fields
    complete = dict.fromkeys(form.names) | renamed(fields, columns)
    kept = {key: value for key, value in fields.items() if key not in form.private}
    return [replace(record, fields=kept) for record in form.read(complete, origin)]


def _marked(tokens: Sequence[int], marks: Sequence[bool], template: ChatTemplate) -> str:
    """The tokens as text, what is learnt or compared between » and «."""
    text, start = "", 0
    for at in range(1, len(tokens) + 1):
        if at == len(tokens) or marks[at] != marks[start]:
            piece = str(template.tokenizer.decode(list(tokens[start:at])))
            text += f"»{piece}«" if marks[start] else piece
            start = at
    line = text.replace("\n", "\\n")
    half = SHOWN_CHARACTERS // 2
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:half]} ... {line[-half:]}"
