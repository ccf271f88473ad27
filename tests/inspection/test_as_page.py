from pathlib import Path

from rlhf_forge.inspection.as_page import as_page
from rlhf_forge.inspection.telling import as_json, lines_of
from rlhf_forge.pages.page import MOST_BYTES
from tests.inspection.made import inspected, row
from tests.pages.reading import HOSTILE, Reader


def hostile_rows() -> list[dict[str, str]]:
    """Everything that is shown of data is hostile, and long."""
    rows = [
        row(n) | {"prompt": HOSTILE * 200, "chosen": f"{HOSTILE * 100} {n}", "source": HOSTILE}
        for n in range(30)
    ]
    rows += [row(n, source=f"{HOSTILE}{n}") | {"rejected": "[INST]\ufffd"} for n in range(40, 240)]
    return [*rows, *rows[:4], rows[0] | {"chosen": ""}]


def test_nothing_of_the_data_becomes_markup_and_the_page_stays_small(tmp_path: Path) -> None:
    found = inspected(tmp_path, hostile_rows())
    html = as_page(found)
    read = Reader(html)
    assert not read.tags & {"script", "img"}
    assert "\u202e" not in html
    assert "<script>alert(1)</script>⟨U+202E⟩" in read.text
    assert len(html.encode()) < MOST_BYTES
    for code in ("PREF105", "PREF203", "PREF301", "PREF501"):
        assert code in read.text


def test_a_page_of_clean_data_says_so(tmp_path: Path) -> None:
    html = as_page(inspected(tmp_path, [row(n) for n in range(3)]))
    assert "No rule was broken." in html


def test_text_and_json_give_the_same_counts_and_lines(tmp_path: Path) -> None:
    rows = [row(n) for n in range(9)]
    rows[3]["chosen"] = rows[7]["chosen"] = ""
    found = inspected(tmp_path, [*rows, rows[1]])
    told = as_json(found)
    by_code = {f["code"]: f for f in told["findings"]}
    place = f"{tmp_path}/train.jsonl"
    assert by_code["PREF203"]["records"] == [f"{place}:4", f"{place}:8"]
    assert by_code["PREF301"]["twins"] == [f"{place}:2"]
    text = "\n".join(lines_of(found))
    assert "PREF203 error: empty-answer: 2 records\n    2 chosen\n" in text
    assert f"{place}:4, 8\n" in text
    assert f"{place}:10 (as 2)" in text
    assert text.endswith("found: 2 error, 1 warning, 0 info")
