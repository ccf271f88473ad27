"""The frame of a chart: scales, ticks, axes, legend."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rlhf_forge.pages.escaping import element, number, shortened, visible

WIDTH, HEIGHT = 480.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 14.0, 48.0
LEGEND_ROW = 18.0
CHARACTER = 7.5
"""Width of one, about, for the legend."""
COLOURS = 6
"""Series that differ in colour and dash; further ones begin again."""
LONGEST_NAME = 40


@dataclass(frozen=True)
class Scale:
    """From numbers to places on a chart.

    Attributes:
        low: Number at the beginning.
        high: Number at the end; greater than ``low``.
        start: Place of ``low``.
        stop: Place of ``high``.
    """

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Place of a number."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers within the scale: steps of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / most
        power = 10 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [at * step for at in range(first, last + 1)]


def span(values: Iterable[float | None], *, include: Sequence[float] = ()) -> tuple[float, float]:
    """Lowest and highest of the finite values, never equal; (0, 1) for none."""
    finite = [v for v in (*values, *include) if v is not None and math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if low == high:
        room = abs(low) * 0.1 or 0.5
        return low - room, high + room
    return low, high


@dataclass(frozen=True)
class Frame:
    """The plane that a chart draws on.

    Attributes:
        x: Scale from left to right.
        y: Scale from bottom to top.
        height: Of the whole picture, legend included.
        marks: Axes, ticks, labels and legend.
    """

    x: Scale
    y: Scale
    height: float
    marks: Markup


def frame(
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    x_label: str,
    y_label: str,
    names: Sequence[str] = (),
) -> Frame:
    """Axes over the two spans, and a legend where there is more than one name."""
    legend, rows = _legend(names if len(names) > 1 else ())
    top = TOP + rows * LEGEND_ROW
    bottom = top + HEIGHT - TOP - BOTTOM
    across = Scale(*x, LEFT, WIDTH - RIGHT)
    upwards = Scale(*y, bottom, top)
    marks = [legend, *_x_ticks(across, top, bottom), *_y_ticks(upwards)]
    middle = (LEFT + WIDTH - RIGHT) / 2
    marks.append(_text(x_label, middle, bottom + 38, text_anchor="middle"))
    turned = f"rotate(-90 12 {(top + bottom) / 2:.0f})"
    marks.append(_text(y_label, 12.0, (top + bottom) / 2, text_anchor="middle", transform=turned))
    return Frame(across, upwards, bottom + BOTTOM, Markup().join(marks))


def picture(title: str, described: str, height: float, *shapes: Markup) -> Markup:
    """The chart as an image with a title and words for those who cannot see it."""
    return element(
        "figure",
        element(
            "svg",
            element("title", title),
            element("desc", described),
            *shapes,
            viewBox=f"0 0 {WIDTH:.0f} {height:.0f}",
            role="img",
            aria_label=f"{title}: {described}",
        ),
        element("figcaption", title),
        class_="chart",
    )


def colour(index: int) -> str:
    """Class that gives a series its colour and dash."""
    return f"s{index % COLOURS}"


def _legend(names: Sequence[str]) -> tuple[Markup, int]:
    parts, row, at = [], 0, LEFT
    for index, name in enumerate(names):
        short = shortened(visible(name), LONGEST_NAME)
        width = 42 + CHARACTER * len(short)
        if at > LEFT and at + width > WIDTH:
            row, at = row + 1, LEFT
        y = TOP + row * LEGEND_ROW
        parts.append(element("line", x1=at, x2=at + 20, y1=y, y2=y, class_=f"line {colour(index)}"))
        parts.append(_text(short, at + 25, y + 4))
        at += width
    return Markup().join(parts), row + 1 if names else 0


def _x_ticks(scale: Scale, top: float, bottom: float) -> list[Markup]:
    parts = [element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis")]
    for tick in scale.ticks():
        at = scale(tick)
        parts.append(element("line", x1=at, x2=at, y1=top, y2=bottom, class_="grid"))
        parts.append(_text(number(float(tick)), at, bottom + 17, text_anchor="middle"))
    return parts


def _y_ticks(scale: Scale) -> list[Markup]:
    parts = []
    for tick in scale.ticks():
        at = scale(tick)
        parts.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid"))
        parts.append(_text(number(float(tick)), LEFT - 6, at + 4, text_anchor="end"))
    return parts


def _text(text: str, x: float, y: float, **attributes: str) -> Markup:
    return element("text", text, x=x, y=y, **attributes)
