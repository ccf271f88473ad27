"""A cleaned copy of the data, and the list of what is not in it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_forge.data.files import Row
from rlhf_forge.data.records import BrokenLine
from rlhf_forge.data.sources import read_rows
from rlhf_forge.errors import UserError
from rlhf_forge.inspection.findings import Inspection
from rlhf_forge.inspection.reading import Source


def require_new(path: Path) -> None:
    """Refuse to write over anything.

    Raises:
        UserError: If one of the two files is there, or ``path`` does not end in .jsonl.
    """
    if path.suffix != ".jsonl":
        raise UserError(f"--write: must end in .jsonl, got {path}")
    for place in (path, removed_list(path)):
        if place.exists():
            raise UserError(f"--write: {place} is there already, and nothing is written over")


def removed_list(path: Path) -> Path:
    """Where the list of what went stands: CLEAN.removed.jsonl."""
    return path.with_suffix(".removed.jsonl")


def write_clean(found: Inspection, sources: Sequence[Source], path: Path, *, seed: int) -> int:
    """Write all rows to train on but those that broke a removing rule, and the list of these.

    A row that holds several pairs goes with the first of them that has to. A broken line goes in
    any case; in the list it stands as text.

    Returns:
        How many rows went.

    Raises:
        UserError: If a source cannot be read to its end; then neither file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _write(_rows(sources, seed), _reasons(found), path)
    except UserError:
        path.unlink()
        removed_list(path).unlink()
        raise


def _write(rows: Iterable[Row], reasons: Mapping[str, list[dict[str, str]]], path: Path) -> int:
    removed = 0
    with (
        path.open("w", encoding="utf-8") as clean,
        removed_list(path).open("w", encoding="utf-8") as gone,
    ):
        for origin, fields in rows:
            if origin not in reasons and not isinstance(fields, BrokenLine):
                clean.write(_line(fields))
                continue
            removed += 1
            row = fields.text if isinstance(fields, BrokenLine) else fields
            gone.write(_line({"origin": origin, "rules": reasons.get(origin, []), "row": row}))
    return removed


def _reasons(found: Inspection) -> dict[str, list[dict[str, str]]]:
    """For each row that goes, the rules that it broke and the record that it broke them with."""
    reasons: dict[str, list[dict[str, str]]] = {}
    for finding in found.findings:
        if not finding.rule.removes:
            continue
        for at, row in enumerate(finding.rows.tolist()):
            told = {"code": finding.code, "name": finding.rule.name}
            if finding.twins is not None:
                told["twin"] = found.ledger.origin(int(finding.twins[at]))
            reasons.setdefault(found.ledger.origin(row), []).append(told)
    return reasons


def _rows(sources: Iterable[Source], seed: int) -> Iterable[Row]:
    for source in sources:
        if not source.held_out:
            yield from read_rows(source.path, split=source.split, seed=seed)


def _line(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=True, default=str) + "\n"
