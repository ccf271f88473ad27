"""What data, models or configs say, made fit to stand on a page."""

import math
import unicodedata
from typing import Any

from markupsafe import Markup, escape

# Line breaks and tabs are layout; joiners (U+200C, U+200D) are spelling in Persian and in emoji.
KEPT = "\n\t\u200c\u200d"
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(text: str) -> str:
    """The text with characters that no one sees written out, such as ⟨U+202E⟩.

    Direction marks can make a line read other than it is; halves of surrogate pairs cannot be
    written to a file at all.
    """
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in HIDDEN_CATEGORIES and c not in KEPT else c
        for c in text
    )


def shown(value: Any) -> Any:
    """What a template writes for a value: markup as it is, numbers short, texts `visible`."""
    if isinstance(value, Markup):
        return value
    if value is None or isinstance(value, bool | int | float):
        return number(value)
    return visible(str(value))


def number(value: float | bool | None) -> str:
    """A number with four digits at most, or a dash for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if value != 0 and math.isfinite(value) and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def clipped(text: str, most: int) -> str:
    """The text, or its beginning and end with a note of how much is left out between."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    tail = most - head
    return f"{text[:head]} [... {len(text) - most:,} characters ...] {text[-tail:]}"


def shortened(text: str, most: int) -> str:
    """The beginning of a text, for a label."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def element(name: str, *content: Any, **attributes: Any) -> Markup:
    """An element of HTML or SVG, its content and attributes escaped unless they are markup.

    Args:
        name: Of the element.
        content: Texts, numbers and markup.
        attributes: ``_`` in a name stands for ``-``, and one at its end for nothing; those that
            are None are left out. Floats are rounded to a tenth: they are places on a chart.
    """
    written = Markup().join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _attribute(value))
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup().join(escape(shown(part)) for part in content)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inside)


def _attribute(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return visible(str(value))
