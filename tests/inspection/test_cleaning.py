import json
from pathlib import Path

import pytest

from rlhf_forge.errors import UserError
from rlhf_forge.inspection.cleaning import removed_list, require_new, write_clean
from rlhf_forge.inspection.inspect import Settings, inspect
from rlhf_forge.inspection.reading import Source
from rlhf_forge.inspection.rules import BY_CODE
from tests.inspection.made import inspected, row, write

ROWS = [
    row(0, extra={"kept": "\u202eas it was"}),
    row(1),
    row(1),
    row(2) | {"chosen": ""},
    {**row(3), "chosen": row(3)["rejected"], "rejected": row(3)["chosen"]},
    row(3),
    row(4),
]


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_copy_and_the_list_together_are_the_data(tmp_path: Path) -> None:
    found = inspected(tmp_path, ROWS, [row(4) | {"chosen": "other"}])
    sources = [Source(str(tmp_path / "train.jsonl"))]
    before = (tmp_path / "train.jsonl").read_bytes()
    clean = tmp_path / "new" / "clean.jsonl"
    assert write_clean(found, sources, clean, seed=0) == 5
    assert read(clean) == [ROWS[0], ROWS[1]]
    gone = read(removed_list(clean))
    assert [line["row"] for line in gone] == ROWS[2:]
    assert [[rule["code"] for rule in line["rules"]] for line in gone] == [  # type: ignore[attr-defined]
        *(["PREF301"], ["PREF203"], ["PREF303"], ["PREF303"], ["PREF304"])
    ]
    assert gone[0]["rules"] == [
        {"code": "PREF301", "name": "duplicate", "twin": f"{tmp_path}/train.jsonl:2"}
    ]
    assert (tmp_path / "train.jsonl").read_bytes() == before


def test_a_cleaned_copy_has_nothing_left_to_remove(tmp_path: Path) -> None:
    found = inspected(tmp_path, ROWS)
    clean = tmp_path / "clean.jsonl"
    write_clean(found, [Source(str(tmp_path / "train.jsonl"))], clean, seed=0)
    again = inspect([Source(str(clean))], Settings())
    assert not [f for f in again.findings if f.rule.removes]


@pytest.mark.parametrize("codes", [frozenset(BY_CODE), frozenset({"PREF301"})])
def test_a_broken_line_goes_and_stands_in_the_list_as_text(
    tmp_path: Path, codes: frozenset[str]
) -> None:
    path = write(tmp_path / "train.jsonl", [row(1), row(2)])
    path.write_bytes(b'{"a": "\xff\n' + path.read_bytes())
    sources = [Source(str(path))]
    clean = tmp_path / "clean.jsonl"
    assert write_clean(inspect(sources, Settings(codes)), sources, clean, seed=0) == 1
    assert read(clean) == [row(1), row(2)]
    [gone] = read(removed_list(clean))
    assert (gone["origin"], gone["row"]) == (f"{path}:1", '{"a": "\udcff\n')


def test_where_a_file_is_broken_for_good_no_half_of_a_copy_is_left(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(f"[{json.dumps(row(1))},\n{{broken]")
    sources = [Source(str(path))]
    clean = tmp_path / "clean.jsonl"
    with pytest.raises(UserError, match=r":2: broken JSON"):
        write_clean(inspect(sources, Settings()), sources, clean, seed=0)
    assert not clean.exists()
    assert not removed_list(clean).exists()


@pytest.mark.parametrize("there", ["clean.jsonl", "clean.removed.jsonl"])
def test_nothing_is_written_over(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        require_new(tmp_path / "clean.jsonl")


def test_the_copy_is_jsonl() -> None:
    with pytest.raises(UserError, match=r"must end in \.jsonl, got clean\.csv"):
        require_new(Path("clean.csv"))
