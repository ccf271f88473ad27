"""A data source as tokenized examples, with what was found on the way."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from rlhf_forge.data.formats import Format, detect, matches
from rlhf_forge.data.records import BadRecord, Record
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.sources import read_rows
from rlhf_forge.data.tokenize import (
    DemonstrationExample,
    Example,
    Kind,
    PairExample,
    Policy,
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

    def fingerprint(self) -> str:
        """SHA-256 over the tokens of all examples, in order."""
        digest = sha256()
        for example in self.examples:
            sides = (
                [example.chosen, example.rejected]
                if isinstance(example, PairExample)
                else [example.tokens]
            )
            digest.update(json.dumps(sides).encode())
        return digest.hexdigest()

    def summary(self, template: ChatTemplate, kind: Kind) -> list[str]:
        """What was detected, what became of the records, and the first one as the model sees it."""
        first, *rest = self.tally.lines()
        return [
            f"data: {self.path}: format {self.form.name!r} ({self.form.mapping})",
            f"  {first}, as {kind}",
            *(f"  {line}" for line in rest),
            *_rendered(self.examples[0], template),
        ]


def load_examples(
    path: str,
    template: ChatTemplate,
    *,
    split: str,
    columns: Mapping[str, str],
    kind: Kind,
    max_length: int,
    bad_records: Policy,
    seed: int,
) -> Loaded:
    """Read, detect and tokenize a source.

    Args:
        path: As `read_rows`.
        template: Renders the records.
        split: Of a data set or function.
        columns: Name in the file for each key that a format wants.
        kind: What the stage learns from.
        max_length: Longest example, tokens.
        bad_records: stop or skip.
        seed: Handed to a function.

    Raises:
        UserError: With file, line and reason.
    """
    rows = [
        (origin, _renamed(fields, columns))
        for origin, fields in read_rows(path, split=split, seed=seed)
    ]
    form = detect([fields for _, fields in rows], path)
    examples, tally = tokenize(
        _readers(rows, form), template, kind=kind, max_length=max_length, bad_records=bad_records
    )
    return Loaded(path, form, examples, tally)


def split_held_out(loaded: Loaded, fraction: float) -> tuple[Loaded, list[Example]]:
    """Take about ``fraction`` of the prompts out, by a hash of the prompt.

    All answers to a prompt fall on one side, and adding data never moves a prompt across.
    """
    held_out = [e for e in loaded.examples if _place(e.record) < fraction]
    train = [e for e in loaded.examples if _place(e.record) >= fraction]
    return replace(loaded, examples=train), held_out


def _place(record: Record) -> float:
    text = json.dumps(record.prompt, sort_keys=True, ensure_ascii=False)
    return int.from_bytes(sha256(text.encode()).digest()[:8]) / 2**64


def _renamed(fields: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    theirs = {column: key for key, column in columns.items()}
    return {theirs.get(name, name): value for name, value in fields.items()}


def _readers(
    rows: list[tuple[str, dict[str, Any]]], form: Format
) -> Iterator[tuple[str, Callable[[], Record]]]:
    for origin, fields in rows:
        yield origin, lambda origin=origin, fields=fields: _read(form, fields, origin)


def _read(form: Format, fields: dict[str, Any], origin: str) -> Record:
    for key in form.keys:
        if fields.get(key) is None:
            raise BadRecord(f"{key} is missing")
    if not matches(form, fields):
        raise BadRecord(f"not of the format {form.name!r} that most records have")
    return form.read(fields, origin)


def _rendered(example: Example, template: ChatTemplate) -> list[str]:
    """The example as text, what is learnt or compared between » and «."""
    if isinstance(example, PairExample):
        sides = {
            "chosen": (example.chosen, example.chosen_response),
            "rejected": (example.rejected, example.rejected_response),
        }
    elif isinstance(example, DemonstrationExample):
        sides = {"example": (example.tokens, example.targets)}
    else:
        sides = {"prompt": (example.tokens, [False] * len(example.tokens))}
    return [f"  {name}: {_marked(*side, template)}" for name, side in sides.items()]


def _marked(tokens: list[int], marks: list[bool], template: ChatTemplate) -> str:
    text, start = "", 0
    for at in range(1, len(tokens) + 1):
        if at == len(tokens) or marks[at] != marks[start]:
            piece = template.tokenizer.decode(tokens[start:at])
            text += f"»{piece}«" if marks[start] else piece
            start = at
    line = text.replace("\n", "\\n")
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + " ..."
