"""Telling a data set's format by its keys and their types, never by its name."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rlhf_forge.data.files import Row
from rlhf_forge.data.format import Fields, Format, Kind, either
from rlhf_forge.data.formats import FORMATS
from rlhf_forge.errors import UserError

SAMPLE = 200
SERVES: dict[Kind, tuple[Kind, ...]] = {
    "pairs": ("pairs",),
    "demonstrations": ("pairs", "demonstrations"),
    "prompts": ("pairs", "demonstrations", "prompts"),
}
"""Whose records can be used as what: a pair's preferred answer is a demonstration."""
GIVES_MORE: tuple[Kind, ...] = ("pairs", "demonstrations", "prompts")


def detect(
    rows: Sequence[Fields],
    source: str,
    *,
    kind: Kind,
    named: Collection[str] = (),
    name: str | None = None,
) -> Format:
    """The one format that most of a data set's first rows have.

    What gives more wins: pairs over demonstrations over prompts; then what asks for more keys.

    Args:
        rows: Rows with the formats' own names for columns; the first 200 are looked at.
        source: For the message.
        kind: What the stage needs.
        named: Columns that the person named; a format that reads them all goes before others.
        name: Of the format, if the person named it.

    Raises:
        UserError: If no format fits, naming the nearest; if two do; if the person must say more;
            or if the records are none that the stage can use.
    """
    sample = rows[:SAMPLE]
    best = _told(sample, source, kind, named) if name is None else _named(sample, source, name)
    if best.refusal is not None and not (best.refusal.unless_named and name is not None):
        raise UserError(
            f"{source}: {best.refusal.why}", hint=best.refusal.hint.format(name=best.name)
        )
    unsaid = [key for key in best.asked if key not in named]
    if unsaid and (kind != "prompts" or "prompt" in unsaid):
        raise UserError(
            f"{source}: in format {best.name!r} it must be said which column is "
            f"{', '.join(unsaid)}",
            hint=best.ask,
        )
    if best.gives not in SERVES[kind]:
        able = [form.name for form in FORMATS if form.gives in SERVES[kind] and not form.refusal]
        raise UserError(
            f"{source}: holds {best.gives} (format {best.name!r}), and this stage needs {kind}",
            hint=f"give a file of {kind}; formats that hold them: {', '.join(able)}",
        )
    return best


def readable(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Those of the first rows that can be read, to tell a format by.

    Raises:
        UserError: If there is none, with what is wrong with the first.
    """
    found = [fields for _, fields in rows if isinstance(fields, dict)]
    if not found:
        origin, broken = rows[0]
        raise UserError(
            f"{origin}: {broken}",
            hint="nor can any of the first lines be read: a JSON object is wanted on each",
        )
    return found


def require_columns(rows: Sequence[Fields], columns: Mapping[str, str], source: str) -> None:
    """Refuse names that the person gave and that are none.

    Args:
        rows: The first ones, as they were read.
        columns: For each of the formats' keys, what the file calls it.
        source: For the message.

    Raises:
        UserError: If a key is none of any format's, or the file has no such column.
    """
    keys = sorted({name for form in FORMATS for name in form.names})
    found = sorted({name for row in rows for name in row})
    for key, column in columns.items():
        for value, known, what in ((key, keys, "key of a format"), (column, found, "column")):
            if value not in known:
                near = difflib.get_close_matches(value, known, n=1)
                raise UserError(
                    f"data.map.{key}={column}: {source} knows no {what} {value!r}",
                    hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}",
                )


def renamed(row: Fields, columns: Mapping[str, str]) -> dict[str, Any]:
    """A row with the formats' own names for the columns that the person named."""
    return {**row, **{key: row.get(column) for key, column in columns.items()}}


def _told(rows: Sequence[Fields], source: str, kind: Kind, named: Collection[str]) -> Format:
    fitting = [form for form in FORMATS if _fits(form, rows)]
    if not fitting:
        raise _unknown(rows, source, kind)
    fitting = [form for form in fitting if set(named) <= set(form.names)] or fitting
    rivals = [form for form in fitting if not any(_beats(other, form) for other in fitting)]
    if len(rivals) > 1:
        raise UserError(
            f"{source}: fits two formats, {' and '.join(repr(form.name) for form in rivals)}",
            hint="say which is meant: "
            + " or ".join(f"--data.format {form.name}" for form in rivals),
        )
    return rivals[0]


def _named(rows: Sequence[Fields], source: str, name: str) -> Format:
    forms = {form.name: form for form in FORMATS}
    if name not in forms:
        near = difflib.get_close_matches(name, forms, n=1)
        raise UserError(
            f"data.format: there is no format {name!r}",
            hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(forms)}",
        )
    if not _fits(forms[name], rows):
        raise UserError(
            f"data.format {name}: most rows of {source} are not of that format, which has "
            f"{_keys(forms[name])}",
            hint=f"the keys found are {', '.join(_found(rows))}",
        )
    return forms[name]


def _fits(form: Format, rows: Sequence[Fields]) -> bool:
    """Whether more than half of the rows have the format."""
    return 2 * sum(map(form.matches, rows)) > len(rows)


def _beats(one: Format, other: Format) -> bool:
    if one.gives != other.gives:
        return GIVES_MORE.index(one.gives) < GIVES_MORE.index(other.gives)
    return one.keys.keys() > other.keys.keys()


def _found(rows: Sequence[Fields]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row)) or ["(none)"]


def _keys(form: Format) -> str:
    return ", ".join(key.replace("|", " or ") for key in form.keys)


def _unknown(rows: Sequence[Fields], source: str, kind: Kind) -> UserError:
    found = _found(rows)
    near = max(
        (form for form in FORMATS if form.gives in SERVES[kind] and form.keys and not form.refusal),
        key=lambda form: (sum(not _lacks(key, found) for key in form.keys), form.gives == kind),
    )
    missing = [key.split("|")[0] for key in near.keys if _lacks(key, found)]
    message = (
        f"{source}: no known format; its keys are {', '.join(found)}; nearest: {near.name!r} "
        f"({_keys(near)})"
    )
    if not missing:
        return UserError(f"{message}, but {_types(rows, near)}")
    read = {name for key in near.keys for name in key.split("|")}
    names = [*(key for key in found if key not in read), *["COLUMN"] * len(missing)]
    return UserError(
        f"{message}, without {', '.join(missing)}",
        hint="if they have other names: "
        + " ".join(f"--data.map.{key}={name}" for key, name in zip(missing, names, strict=False)),
    )


def _lacks(key: str, found: Collection[str]) -> bool:
    return not any(name in found for name in key.split("|"))


def _types(rows: Sequence[Fields], form: Format) -> str:
    row = next((row for row in rows if not form.matches(row)), {})
    values = (either(row, key) for key in form.keys)
    kinds = [f"{key} is a {type(value).__name__}" for key, value in values]
    return f"{' and '.join(kinds)}, and not what it could read there"
