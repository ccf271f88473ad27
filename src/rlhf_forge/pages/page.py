"""One self-contained page: headings, prose, tables, texts and charts in one skeleton."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from rlhf_forge.pages.escaping import clipped, shown, visible

Verdict = Literal["good", "doubtful", "bad", "error", "warning", "info"]

MOST_BYTES = 2_000_000
MOST_ROWS = 200
MOST_CHARACTERS = 2000
"""Of one quoted text."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, each made by a function here or in `charts`.

    Attributes:
        title: Plain text.
        parts: In order. Charts that follow each other stand side by side where there is room.
    """

    title: str
    parts: Sequence[Markup]


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page as HTML: no network, no script, light, dark and in print.

    Args:
        title: What it is about.
        subtitle: One line under it.
        sections: From the most important to the least.

    Raises:
        ValueError: If it is larger than 2 MB: its parts are to be samples, not whole data sets.
    """
    html = _template("page.html.jinja").render(title=title, subtitle=subtitle, sections=sections)
    size = len(html.encode())
    if size > MOST_BYTES:
        raise ValueError(f"the page would be {size:,} bytes, and at most {MOST_BYTES:,} are shown")
    return html


def write_page(path: Path, html: str) -> None:
    """Write a page, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")


def prose(text: str) -> Markup:
    """A paragraph."""
    return _part("prose", text=text)


def quoted(text: str, *, label: str = "", most: int = MOST_CHARACTERS) -> Markup:
    """A text of the data or a model as it is, its line breaks kept, a long one cut in the middle.

    Args:
        text: Any text.
        label: What it is: chosen, rejected, ...
        most: Characters shown.
    """
    return _part("quoted", text=clipped(visible(text), most), label=label)


def beside(texts: Mapping[str, str], *, most: int = MOST_CHARACTERS) -> Markup:
    """Texts to compare, side by side where there is room, each under its name."""
    cut = {name: clipped(visible(text), most) for name, text in texts.items()}
    return _part("beside", texts=cut)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    caption: str = "",
    most: int = MOST_ROWS,
) -> Markup:
    """A table; numbers are set to the right, and rows beyond ``most`` are left out and counted."""
    return _part("table", columns=columns, rows=rows[:most], caption=caption, number=len(rows))


def facts(values: Mapping[str, Any]) -> Markup:
    """Names with values, one a row."""
    return _part("facts", values=values)


def finding(verdict: Verdict, title: str, text: str, *, details: Sequence[Markup] = ()) -> Markup:
    """A judgement in a word, what it is about, why; and what to unfold beneath."""
    return _part("finding", verdict=verdict, title=title, text=text, details=details)


def unfolding(title: str, parts: Sequence[Markup]) -> Markup:
    """Parts that stay folded until asked for; in print they are open."""
    return _part("unfolding", title=title, parts=parts)


def _part(macro: str, **values: Any) -> Markup:
    made: Markup = getattr(_template("parts.html.jinja").module, macro)(**values)
    return made


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("rlhf_forge.pages"),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> Template:
    return _environment().get_template(name)
