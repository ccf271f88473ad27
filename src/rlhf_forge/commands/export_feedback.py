"""``export-feedback``: votes as a file that ``fit`` reads."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlhf_forge.errors import UserError

if TYPE_CHECKING:
    from rlhf_forge.serve.feedback.export import Exported, Row


def export_feedback(
    db: Path, out: Path, format: Literal["trl", "openai", "arena"] = "trl", keep_cut: bool = False
) -> int:
    """Write the votes of a database as preferences; ties, both bad and skips into a second file.

    Args:
        db: What serve --feedback names.
        out: File to write, .jsonl; the second one is called OUT.undecided.jsonl.
        format: trl is what fit reads; openai and arena are for other tools.
        keep_cut: Keep votes whose answers were cut off by voting before their end.
    """
    from rlhf_forge.serve.feedback.export import rows_of, sorted_out
    from rlhf_forge.serve.feedback.store import FeedbackStore

    if out.suffix != ".jsonl":
        raise UserError(f"{out}: must end in .jsonl")
    if not db.is_file():
        raise UserError(f"{db}: no such file", hint="serve --feedback names it")
    exported = sorted_out(FeedbackStore(db).votes(), keep_cut=keep_cut)
    decided, undecided = rows_of(exported, format)
    second = out.with_suffix(".undecided.jsonl")
    _write(out, decided)
    _write(second, undecided)
    _tell(exported, out, second)
    return 0


def _write(path: Path, rows: list["Row"]) -> None:
    """In place of what is there, which is whole until the new one is."""
    import json

    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    unfinished.replace(path)


def _tell(exported: "Exported", out: Path, second: Path) -> None:
    from rlhf_forge.serve.feedback.export import contradictions

    print(f"{len(exported.decided)} pairs in {out}")
    print(f"{len(exported.undecided)} ties, both bad and skips in {second}")
    for reason, count in sorted(exported.left_out.items()):
        print(f"{count} left out: {reason}")
    if conflicts := contradictions(exported.decided):
        sys.stderr.write(f"warning: people contradict each other on {conflicts} pairs\n")
    if exported.decided:
        sys.stderr.write(f"next: python -m rlhf_forge fit --config reward.yaml --data.path {out}\n")
