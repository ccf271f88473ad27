"""Pairs and files of pairs for the tests here."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_forge.data.records import Conversation, Pair, assistant, user
from rlhf_forge.inspection.findings import Inspection
from rlhf_forge.inspection.inspect import Settings, inspect
from rlhf_forge.inspection.reading import Source

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def pair(
    prompt: str | Conversation = "Say hi.",
    chosen: str = "Hello.",
    rejected: str = "Go.",
    **fields: Any,
) -> Pair:
    turns = user(prompt) if isinstance(prompt, str) else prompt
    return Pair(turns, assistant(chosen), assistant(rejected), "pairs.jsonl:1", fields)


def row(number: int, **more: Any) -> dict[str, Any]:
    """A row with nothing wrong, and nothing in common with that of another number."""
    words = [" ".join(f"{part}{number}{n}" for n in range(12)) for part in "pcr"]
    return dict(zip(("prompt", "chosen", "rejected"), words, strict=True)) | more


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def inspected(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    held_out: Sequence[dict[str, Any]] = (),
    settings: Settings | None = None,
) -> Inspection:
    sources = [Source(str(write(folder / "train.jsonl", rows)))]
    if held_out:
        path = write(folder / "held_out.jsonl", held_out)
        sources.append(Source(str(path), held_out=True))
    return inspect(sources, settings or Settings())


def lines(found: Inspection, code: str) -> list[str]:
    """``file:line`` of all records that a rule found, and of the twin of each."""
    for finding in found.findings:
        if finding.code == code:
            numbers = finding.rows.tolist()
            twins = [] if finding.twins is None else finding.twins.tolist()
            names = [found.ledger.origin(n).rpartition("/")[2] for n in numbers]
            others = [found.ledger.origin(n).rpartition("/")[2] for n in twins]
            return [f"{a} {b}" for a, b in zip(names, others, strict=True)] if others else names
    return []
