import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from markupsafe import Markup

from rlhf_forge.pages.charts import (
    MOST_POINTS,
    Bar,
    Bin,
    Series,
    bar_chart,
    histogram,
    line_chart,
    reliability_plot,
    scatter_chart,
)
from rlhf_forge.pages.frame import Scale, span

HOSTILE = '</style><script>alert(1)</script>\u202e"'
NAN = math.nan
DRAWN = {"figure", "figcaption", "svg", "title", "desc", "text"}
DRAWN |= {"line", "path", "polygon", "circle", "rect"}


def hostile_charts() -> list[Markup]:
    series = [Series(HOSTILE, [0, 1, 2], [1, NAN, 3]), Series("b", [0, 1], [2, 2], [1, 1], [3, 3])]
    return [
        line_chart(HOSTILE, series, x_label=HOSTILE, y_label=HOSTILE, mark=1),
        scatter_chart(
            HOSTILE, series, x_label=HOSTILE, y_label=HOSTILE, curves=series, chosen=(1, 2)
        ),
        histogram(HOSTILE, {HOSTILE: [1, 2, 2, NAN], "b": [0.5]}, x_label=HOSTILE),
        bar_chart(HOSTILE, [Bar(HOSTILE, 0.5, 0.4, 0.6)], x_label=HOSTILE, reference=0.7),
        reliability_plot(HOSTILE, [Bin(0.2, 0.3, 10), Bin(0.8, 0.7, 0)]),
    ]


def tree(chart: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(chart))


@pytest.mark.parametrize("chart", hostile_charts())
def test_a_chart_is_well_formed_and_nothing_in_it_is_anyones_markup(chart: Markup) -> None:
    names = {element.tag for element in tree(chart).iter()}
    assert names <= DRAWN
    assert "\u202e" not in chart
    assert "⟨U+202E⟩" in chart


@pytest.mark.parametrize("chart", hostile_charts())
def test_a_chart_says_what_it_shows_to_those_who_cannot_see_it(chart: Markup) -> None:
    svg = tree(chart).find("svg")
    assert svg is not None
    assert svg.get("role") == "img"
    assert (svg.findtext("title") or "").startswith("</style>")
    assert svg.findtext("desc")


@pytest.mark.parametrize("chart", hostile_charts())
def test_no_place_on_a_chart_is_outside_the_picture_or_no_number(chart: Markup) -> None:
    assert "nan" not in chart.casefold()
    for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", chart):
        assert 0 <= float(x) <= 480
        assert 0 <= float(y) <= 400


def test_a_curve_is_interrupted_where_a_value_is_none() -> None:
    chart = line_chart("t", [Series("a", [0, 1, 2, 3], [1, 2, NAN, 4])], x_label="", y_label="")
    path = tree(chart).find("svg/path")
    assert path is not None
    assert re.sub(r"[^ML]", "", path.get("d", "")) == "MLM"


def test_a_single_value_is_a_dot_and_none_at_all_is_no_mistake() -> None:
    one = line_chart("t", [Series("a", [1], [1])], x_label="", y_label="")
    assert tree(one).find("svg/circle") is not None
    for empty in ([], [Series("a", [], [])]):
        assert tree(line_chart("t", empty, x_label="", y_label="")).find("svg") is not None
    assert tree(histogram("t", {"a": []}, x_label="")).find("svg") is not None
    assert tree(bar_chart("t", [], x_label="")).find("svg") is not None


def test_a_long_series_is_thinned_to_what_can_be_told_apart() -> None:
    many = list(map(float, range(100_000)))
    chart = line_chart("t", [Series("a", many, many)], x_label="", y_label="")
    assert chart.count("L") <= MOST_POINTS + 1
    assert "from 0 to 99,999" in chart


def test_a_histogram_holds_all_values_whatever_their_number() -> None:
    chart = histogram("t", {"a": [0, 0, 0, 10], "b": [10]}, x_label="", bins=2)
    first, second = tree(chart).findall("svg/path")
    heights = [
        [float(y) for y in re.findall(r"[ML][\d.-]+ ([\d.-]+)", path.get("d", ""))]
        for path in (first, second)
    ]
    # From share 0 at the bottom: three quarters and a quarter, then nothing and all.
    bottom, top = heights[1][0], heights[1][-1]
    shares = [[(bottom - y) / (bottom - top) for y in row] for row in heights]
    assert shares[0] == pytest.approx([0.75, 0.75, 0.25, 0.25], abs=0.01)
    assert shares[1] == pytest.approx([0, 0, 1, 1], abs=0.01)


def test_ticks_are_round_and_within_the_scale() -> None:
    assert Scale(0.0, 1.0, 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Scale(-3.0, 47.0, 0, 1).ticks() == [0, 10, 20, 30, 40]


def test_a_span_is_never_empty() -> None:
    assert span([]) == (0, 1)
    assert span([NAN, None, 2.0]) == (1.8, 2.2)
    assert span([0.0]) == (-0.5, 0.5)
    assert span([1.0, 3.0], include=[0]) == (0, 3)
