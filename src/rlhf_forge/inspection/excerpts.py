"""Texts of some records of each finding: read again, for none was kept."""

import json
from collections.abc import Mapping, Sequence

from rlhf_forge.data.records import Conversation
from rlhf_forge.inspection.findings import Example, Finding
from rlhf_forge.inspection.ledger import Ledger
from rlhf_forge.inspection.reading import Reading, Source, Wording, read_pairs

SHOWN = 5
LONGEST = 2000
"""Characters of one text."""


def examples_of(
    findings: Sequence[Finding],
    sources: Sequence[Source],
    wording: Wording,
    ledger: Ledger,
) -> dict[str, list[Example]]:
    """The first records of each finding as text, under its code."""
    wanted = {int(row) for finding in findings for row in finding.rows[:SHOWN]}
    texts = _texts(wanted, sources, wording)
    return {
        f.code: [_example(f, at, ledger, texts) for at in range(len(f.rows[:SHOWN]))]
        for f in findings
    }


def _texts(
    wanted: set[int], sources: Sequence[Source], wording: Wording
) -> dict[int, dict[str, str]]:
    """Texts of the records with these numbers; reading stops when all are found."""
    found: dict[int, dict[str, str]] = {}
    number = 0
    for source in sources:
        for reading in read_pairs(source, wording):
            if len(found) == len(wanted):
                return found
            if number in wanted:
                found[number] = _text_of(reading)
            number += 1
    return found


def _example(
    finding: Finding, at: int, ledger: Ledger, texts: Mapping[int, Mapping[str, str]]
) -> Example:
    row = int(finding.rows[at])
    twin = "" if finding.twins is None else ledger.origin(int(finding.twins[at]))
    score = None if finding.scores is None else float(finding.scores[at])
    return Example(ledger.origin(row), twin, texts[row], score)


def _text_of(reading: Reading) -> dict[str, str]:
    pair = reading.pair
    if pair is None:
        row = json.dumps(reading.fields, ensure_ascii=False, default=str)
        return {"row": _cut(f"{reading.reason}: {row}")}
    parts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    return {name: _cut(written(turns)) for name, turns in parts.items()}


def written(turns: Conversation) -> str:
    """A conversation as text; a single turn without its role."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def _cut(text: str) -> str:
    """The text, or its end: that is where the sides of a pair differ."""
    return text if len(text) <= LONGEST else f"[...] {text[-LONGEST:]}"
