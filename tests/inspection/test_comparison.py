from pathlib import Path

from rlhf_forge.inspection.comparison import compared, comparison_lines
from tests.inspection.made import inspected, row


def test_pairs_are_kept_new_gone_or_turned(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    turned = row(2) | {"chosen": row(2)["rejected"], "rejected": row(2)["chosen"]}
    old = inspected(tmp_path / "old", [row(0), row(1), row(2), row(3)])
    new = inspected(tmp_path / "new", [row(0), row(0), turned, row(4), row(5), row(1)])
    found = compared(old, new)
    assert (found.kept, found.new, found.gone, found.turned) == (2, 2, 1, 1)
    assert (found.prompts_new, found.prompts_gone) == (2, 1)
    assert found.findings == {"PREF301": (0, 1)}
    assert next(comparison_lines(found)).startswith("from old to new: 2 pairs kept, 2 new, 1 gone")


def test_a_version_is_the_same_as_itself(tmp_path: Path) -> None:
    found = inspected(tmp_path, [row(n) for n in range(5)])
    same = compared(found, found)
    assert (same.kept, same.new, same.gone, same.turned) == (5, 0, 0, 0)
