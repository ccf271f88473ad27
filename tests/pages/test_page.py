import re
from pathlib import Path

import pytest

from rlhf_forge.pages.charts import Series, line_chart
from rlhf_forge.pages.page import (
    Section,
    beside,
    facts,
    finding,
    page,
    prose,
    quoted,
    table,
    unfolding,
    write_page,
)
from tests.pages.reading import HOSTILE, Reader


def hostile_page() -> str:
    parts = [
        prose(HOSTILE),
        quoted(HOSTILE, label=HOSTILE),
        beside({HOSTILE: HOSTILE, "rejected": HOSTILE}),
        table([HOSTILE], [[HOSTILE], [1.5]], caption=HOSTILE),
        facts({HOSTILE: HOSTILE}),
        finding("bad", HOSTILE, HOSTILE, details=[quoted(HOSTILE)]),
        unfolding(HOSTILE, [prose(HOSTILE)]),
        line_chart(HOSTILE, [Series(HOSTILE, [0, 1], [0, 1])], x_label=HOSTILE, y_label=HOSTILE),
    ]
    return page(HOSTILE, HOSTILE, [Section(HOSTILE, parts)] * 3)


def test_nothing_that_is_shown_becomes_markup_or_turns_the_text_round() -> None:
    html = hostile_page()
    read = Reader(html)
    assert not read.tags & {"script", "img"}
    assert not [name for name in read.attributes if name.startswith("on")]
    assert "\u202e" not in html
    assert "<script>alert(1)</script>⟨U+202E⟩" in read.text
    assert "{{ 7 }}" in read.text


def test_a_page_needs_no_network_and_no_script() -> None:
    html = hostile_page()
    assert "default-src 'none'" in html
    assert all(link.startswith(("#", "data:")) for link in Reader(html).links)
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)[0]
    assert not re.search(r"url\(|@import|http", style)


def test_a_page_knows_the_dark_the_printer_and_the_phone() -> None:
    html = page("t", "s", [])
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert 'name="viewport"' in html


def test_rows_beyond_what_is_shown_are_counted() -> None:
    made = table(["a"], [[number] for number in range(5)], caption="rows", most=2)
    assert made.count("<tr>") == 3
    assert "(2 of 5 rows)" in made


def test_a_long_text_is_cut_and_says_so() -> None:
    assert "[... 4,000 characters ...]" in quoted("a" * 6000)


def test_a_text_of_characters_that_are_written_out_is_cut_by_what_is_written() -> None:
    assert len(quoted("\u202e" * 6000)) < 2500


def test_a_page_above_two_megabytes_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 2,000,000"):
        page("t", "s", [Section("a", [prose("x" * 1000)] * 2000)])


def test_a_page_is_written_with_its_folder(tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "page.html", page("Größe", "s", []))
    assert "Größe" in (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
