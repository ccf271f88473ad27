"""Charts as inline SVG: curves, points, histograms, bars, reliability."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rlhf_forge.pages.escaping import element, number, shortened, visible
from rlhf_forge.pages.frame import LEFT, RIGHT, WIDTH, Frame, Scale, colour, frame, picture, span

MOST_POINTS = 400
"""Of one series; more would only lie upon each other."""
BAR_ROW, BAR = 30.0, 14.0
LONGEST_LABEL = 24


@dataclass(frozen=True)
class Series:
    """Numbers to draw, under a name.

    Attributes:
        name: For the legend.
        x: Places from left to right.
        y: Values; what is not finite is a gap.
        low: Lower edges of a band around the values, as many as these; none: no band.
        high: Upper edges.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Bar:
    """A value with its interval, under a label."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same probability.

    Attributes:
        predicted: Their mean, in [0, 1].
        observed: Share of them that came true.
        count: How many they are.
    """

    predicted: float
    observed: float
    count: int


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str, y_label: str, mark: float | None = None
) -> Markup:
    """Curves; ``mark`` is a place on the x axis to draw a line at, such as the one chosen."""
    series = [_thinned(one) for one in series]
    plane = _plane_of(series, x_label=x_label, y_label=y_label)
    shapes = [_band(one, i, plane) for i, one in enumerate(series)]
    shapes += [_curve(one, i, plane) for i, one in enumerate(series)]
    shapes += [_upright(mark, plane)] if mark is not None else []
    return picture(title, _ends(series, x_label, y_label), plane.height, plane.marks, *shapes)


def scatter_chart(
    title: str,
    points: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    curves: Sequence[Series] = (),
    chosen: tuple[float, float] | None = None,
) -> Markup:
    """Points, with curves through them if there are any and a ring around one that was chosen."""
    together = [_thinned(one) for one in (*points, *curves)]
    plane = _plane_of(together, x_label=x_label, y_label=y_label)
    shapes = [
        element("circle", cx=plane.x(x), cy=plane.y(y), r=3, class_=f"dot {colour(i)}")
        for i, one in enumerate(together[: len(points)])
        for x, y in _finite(one)
    ]
    shapes += [_curve(c, i, plane) for i, c in enumerate(together) if i >= len(points)]
    if chosen is not None:
        place = {"cx": plane.x(chosen[0]), "cy": plane.y(chosen[1])}
        shapes.append(element("circle", **place, r=8, class_="ring"))
    return picture(title, _ends(together, x_label, y_label), plane.height, plane.marks, *shapes)


def histogram(
    title: str, samples: Mapping[str, Sequence[float]], *, x_label: str, bins: int = 24
) -> Markup:
    """Shares of values, one outline for each sample, over the same bins."""
    low, high = span(value for values in samples.values() for value in values)
    width = (high - low) / bins
    outlines = []
    for name, values in samples.items():
        shares = _shares([v for v in values if math.isfinite(v)], low, width, bins)
        corners = [low, *(low + width * (i // 2) for i in range(2, 2 * bins)), high]
        heights = [share for share in shares for _ in range(2)]
        outlines.append(Series(name, corners, heights))
    plane = frame(
        (low, high),
        span((v for one in outlines for v in one.y), include=[0.0]),
        x_label=x_label,
        y_label="share",
        names=list(samples),
    )
    areas = [_area(one, i, plane) for i, one in enumerate(outlines)]
    lines = [_curve(one, i, plane) for i, one in enumerate(outlines)]
    counts = ", ".join(f"{name} {len(values):,} values" for name, values in samples.items())
    return picture(title, f"{x_label}; {counts}", plane.height, plane.marks, *areas, *lines)


def bar_chart(
    title: str, bars: Sequence[Bar], *, x_label: str, reference: float | None = None
) -> Markup:
    """Values with their intervals, one a row; ``reference`` is a value to hold them against."""
    edges = [v for bar in bars for v in (bar.value, bar.low, bar.high)]
    low, high = span(edges, include=[0.0] if reference is None else [0.0, reference])
    left = 16 + 7 * max((min(len(bar.label), LONGEST_LABEL) for bar in bars), default=0)
    across = Scale(low, high, max(LEFT, left), WIDTH - RIGHT - 44)
    bottom = 8 + BAR_ROW * len(bars)
    shapes = [_bar(bar, 8 + BAR_ROW * i, across) for i, bar in enumerate(bars)]
    for tick in across.ticks(5):
        at = across(tick)
        shapes.insert(0, element("line", x1=at, x2=at, y1=4, y2=bottom, class_="grid"))
        shapes.append(
            element("text", number(float(tick)), x=at, y=bottom + 16, text_anchor="middle")
        )
    if reference is not None:
        at = across(reference)
        shapes.append(element("line", x1=at, x2=at, y1=4, y2=bottom, class_="reference"))
    middle = (across.start + across.stop) / 2
    shapes.append(element("text", x_label, x=middle, y=bottom + 36, text_anchor="middle"))
    return picture(title, "; ".join(map(_told, bars)), bottom + 44, *shapes)


def reliability_plot(title: str, bins: Sequence[Bin]) -> Markup:
    """How often came true what was given which probability; on the diagonal is calibrated."""
    plane = frame((0.0, 1.0), (0.0, 1.0), x_label="predicted", y_label="observed")
    most = max((b.count for b in bins), default=1)
    ends = {"x1": plane.x(0), "y1": plane.y(0), "x2": plane.x(1), "y2": plane.y(1)}
    shapes = [element("line", **ends, class_="reference")]
    for one in bins:
        at = {"cx": plane.x(one.predicted), "cy": plane.y(one.observed)}
        radius = 2 + 7 * math.sqrt(one.count / most)
        shapes.append(element("circle", **at, r=radius, class_="dot s0"))
    known = [b for b in bins if b.count]
    curve = Series("", [b.predicted for b in known], [b.observed for b in known])
    told = "; ".join(
        f"predicted {b.predicted:.2f}, observed {b.observed:.2f} of {b.count:,}" for b in bins
    )
    return picture(title, told, plane.height, plane.marks, *shapes, _curve(curve, 0, plane))


def _plane_of(series: Sequence[Series], *, x_label: str, y_label: str) -> Frame:
    heights = [v for one in series for v in (*one.y, *(one.low or ()), *(one.high or ()))]
    low, high = span(heights)
    room = 0.04 * (high - low)
    return frame(
        span(x for one in series for x in one.x),
        (low - room, high + room),
        x_label=x_label,
        y_label=y_label,
        names=[one.name for one in series],
    )


def _thinned(series: Series) -> Series:
    """The series without most of its points, where it has too many to be told apart."""
    step = -(-len(series.x) // MOST_POINTS)
    if step <= 1:
        return series
    rows = sorted({*range(0, len(series.x), step), len(series.x) - 1})
    low, high = ([edge[i] for i in rows] if edge else None for edge in (series.low, series.high))
    return Series(series.name, [series.x[i] for i in rows], [series.y[i] for i in rows], low, high)


def _finite(series: Series) -> list[tuple[float, float]]:
    pairs = zip(series.x, series.y, strict=True)
    return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _curve(series: Series, index: int, plane: Frame) -> Markup:
    """A line through the points, interrupted where one is not finite; a dot for one alone."""
    path, drawing = [], False
    for x, y in zip(series.x, series.y, strict=True):
        finite = math.isfinite(x) and math.isfinite(y)
        if finite:
            path.append(f"{'L' if drawing else 'M'}{plane.x(x):.1f} {plane.y(y):.1f}")
        drawing = finite
    if len(path) == 1:
        [(x, y)] = _finite(series)
        return element("circle", cx=plane.x(x), cy=plane.y(y), r=4, class_=f"dot {colour(index)}")
    return element("path", d=" ".join(path), class_=f"line {colour(index)}")


def _band(series: Series, index: int, plane: Frame) -> Markup:
    if series.low is None or series.high is None:
        return Markup()
    rows = zip(series.x, series.low, series.high, strict=True)
    kept = [row for row in rows if all(map(math.isfinite, row))]
    corners = [(x, high) for x, _, high in kept] + [(x, low) for x, low, _ in reversed(kept)]
    return element("polygon", points=_points(corners, plane), class_=f"area {colour(index)}")


def _area(series: Series, index: int, plane: Frame) -> Markup:
    corners = [(series.x[0], 0.0), *zip(series.x, series.y, strict=True), (series.x[-1], 0.0)]
    return element("polygon", points=_points(corners, plane), class_=f"area {colour(index)}")


def _points(corners: Sequence[tuple[float, float]], plane: Frame) -> str:
    return " ".join(f"{plane.x(x):.1f},{plane.y(y):.1f}" for x, y in corners)


def _upright(at: float, plane: Frame) -> Markup:
    x, y = plane.x(at), plane.y
    return element("line", x1=x, x2=x, y1=y.start, y2=y.stop, class_="reference")


def _shares(values: Sequence[float], low: float, width: float, bins: int) -> list[float]:
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / width), bins - 1)] += 1
    return [count / max(len(values), 1) for count in counts]


def _bar(bar: Bar, y: float, scale: Scale) -> Markup:
    middle = y + BAR / 2
    start, stop = sorted((scale(0.0), scale(bar.value)))
    end = scale(max(0.0, bar.value, bar.value if bar.high is None else bar.high))
    label = shortened(visible(bar.label), LONGEST_LABEL)
    parts = [
        element("text", label, x=scale.start - 8, y=middle + 4, text_anchor="end"),
        element("rect", x=start, y=y, width=stop - start, height=BAR, class_="bar s0"),
        element("text", number(float(bar.value)), x=end + 6, y=middle + 4),
    ]
    if bar.low is not None and bar.high is not None:
        whisker = {"x1": scale(bar.low), "x2": scale(bar.high), "y1": middle, "y2": middle}
        parts.append(element("line", **whisker, class_="whisker"))
    return Markup().join(parts)


def _told(bar: Bar) -> str:
    interval = "" if bar.low is None else f" ({number(bar.low)} to {number(bar.high)})"
    return f"{bar.label} {number(float(bar.value))}{interval}"


def _ends(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """First and last value of every series, in words."""
    told = [f"{y_label} by {x_label}"]
    for one in series:
        ends = [y for _, y in _finite(one)]
        if ends:
            told.append(f"{one.name} from {number(float(ends[0]))} to {number(float(ends[-1]))}")
    return "; ".join(told)
