"""Telling a data set's format by its keys and their types, never by its name."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rlhf_forge.data.formats import FORMATS, Fields, Format, Kind
from rlhf_forge.errors import UserError

SAMPLE = 200
SERVES: dict[Kind, tuple[Kind, ...]] = {
    "pairs": ("pairs",),
    "demonstrations": ("pairs", "demonstrations"),
    "prompts": ("pairs", "demonstrations", "prompts"),
}
"""Whose records can be used as what: a pair's preferred answer is a demonstration."""


def detect(
    rows: Sequence[Fields], source: str, *, kind: Kind, named: Collection[str] = ()
) -> Format:
    """The one format that most of a data set's first rows have.

    Args:
        rows: Rows with the formats' own names for columns; the first 200 are looked at.
        source: For the message.
        kind: What the stage needs.
        named: Columns that the person named. If these alone make a format, it is that one.

    Raises:
        UserError: If no format fits, naming the nearest; if two do; or if the records are none
            that the stage can use.
    """
    sample = rows[:SAMPLE]
    _refuse_unpaired(sample, source)
    only_named = [{key: row.get(key) for key in named} for row in sample]
    fitting = _fitting(only_named) or _fitting(sample)
    if not fitting:
        raise _unknown(sample, source, kind)
    best = min(fitting, key=lambda form: form.rank)
    rivals = [form for form in fitting if form.rank == best.rank]
    if len(rivals) > 1:
        raise UserError(
            f"{source}: fits two formats, {' and '.join(repr(form.name) for form in rivals)}",
            hint="name the columns of the one that is meant: "
            + " ".join(f"--data.map.{key}={key}" for key in best.keys),
        )
    if best.gives not in SERVES[kind]:
        raise UserError(
            f"{source}: holds {best.gives} (format {best.name!r}), and this stage needs {kind}",
            hint=f"give a file of {kind}; known: "
            + "; ".join(form.name for form in FORMATS if form.gives in SERVES[kind]),
        )
    return best


def renamed(
    rows: Sequence[dict[str, Any]], columns: Mapping[str, str], source: str
) -> list[dict[str, Any]]:
    """The rows with the formats' own names for the columns that the person named.

    Args:
        rows: As they were read; left as they are.
        columns: For each of the formats' keys, what the file calls it.
        source: For the message.

    Raises:
        UserError: If a key is none of any format's, or the file has no such column.
    """
    keys = sorted({key for form in FORMATS for key in (*form.keys, *form.optional)})
    found = sorted({name for row in rows for name in row})
    for key, column in columns.items():
        for value, known, what in ((key, keys, "key of a format"), (column, found, "column")):
            if value not in known:
                near = difflib.get_close_matches(value, known, n=1)
                raise UserError(
                    f"data.map.{key}={column}: {source} knows no {what} {value!r}",
                    hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}",
                )
    return [row | {key: row.get(column) for key, column in columns.items()} for row in rows]


def _fitting(rows: Sequence[Fields]) -> list[Format]:
    """Formats that more than half of the rows have."""
    return [form for form in FORMATS if 2 * sum(map(form.matches, rows)) > len(rows)]


def _refuse_unpaired(rows: Sequence[Fields], source: str) -> None:
    keys = {"prompt", "completion", "label"}
    labelled = [row for row in rows if keys <= row.keys() and isinstance(row["label"], bool)]
    if 2 * len(labelled) > len(rows):
        raise UserError(
            f"{source}: unpaired feedback (prompt, completion, label: good or bad), from which no "
            "stage here learns",
            hint="for demonstrations write the good ones to a file of their own, without label",
        )


def _unknown(rows: Sequence[Fields], source: str, kind: Kind) -> UserError:
    found = list(dict.fromkeys(key for row in rows for key in row))
    near = max(
        (form for form in FORMATS if form.gives in SERVES[kind]),
        key=lambda form: (sum(key in found for key in form.keys), form.gives == kind),
    )
    missing = [key for key in near.keys if key not in found]
    message = f"{source}: no known format; its keys are {', '.join(found) or '(none)'}; nearest: "
    if not missing:
        return UserError(f"{message}{near.name!r}, but {_types(rows, near)}")
    spare = [key for key in found if key not in near.keys]
    names = [*spare, *["COLUMN"] * len(missing)]
    return UserError(
        f"{message}{near.name!r}, without {', '.join(missing)}",
        hint="if they have other names: "
        + " ".join(f"--data.map.{key}={name}" for key, name in zip(missing, names, strict=False)),
    )


def _types(rows: Sequence[Fields], form: Format) -> str:
    row = next((row for row in rows if not form.matches(row)), {})
    kinds = [f"{key} is a {type(row.get(key)).__name__}" for key in form.keys]
    return f"{' and '.join(kinds)}, neither text nor turns that it could read"
