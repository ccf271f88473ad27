import re
from pathlib import Path

import pytest

from rlhf_forge.errors import UserError
from rlhf_forge.inspection.inspect import LEAST_CASES
from rlhf_forge.inspection.rules import BY_CODE, RULES
from rlhf_forge.inspection.selection import rule_of, selected, worst
from rlhf_forge.inspection.tendencies import LEAST_PAIRS

PAGE = Path(__file__).parents[2] / "docs" / "inspect-data.md"
SECTION = re.compile(r"^#### (PREF\d+) (\S+)\n\n\*(.+?)\.\* (.+?)(?=\n\n#|\Z)", re.M | re.S)


def test_codes_are_given_once_and_in_order() -> None:
    codes = [rule.code for rule in RULES]
    assert codes == sorted(set(codes))


def test_the_page_says_of_every_rule_what_the_code_says() -> None:
    written = {
        code: (name, kind, " ".join(why.replace("`", "").split()))
        for code, name, kind, why in SECTION.findall(PAGE.read_text())
    }
    assert written == {
        rule.code: (
            rule.name,
            rule.severity.capitalize() + ", removed" * rule.removes,
            " ".join(rule.why.split()),
        )
        for rule in RULES
    }


@pytest.mark.parametrize(
    ("code", "least"),
    [
        ("PREF401", LEAST_PAIRS),
        ("PREF402", LEAST_PAIRS),
        ("PREF403", LEAST_CASES),
        ("PREF503", LEAST_PAIRS),
    ],
)
def test_a_rule_that_is_silent_on_few_pairs_says_how_many_it_needs(code: str, least: int) -> None:
    assert f"{least} pairs" in rule_of(code).why


def test_a_beginning_selects_all_codes_that_begin_so() -> None:
    assert selected(None, None) == BY_CODE.keys()
    assert selected("pref2, PREF301", "PREF20") == {"PREF210", "PREF301"}


@pytest.mark.parametrize("codes", ["PREF9", "X", "", "PREF1,"])
def test_a_beginning_of_no_code_is_refused(codes: str) -> None:
    with pytest.raises(UserError, match="--select: no rule"):
        selected(codes, None)


def test_an_unknown_code_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no rule 'PREF999'"):
        rule_of("PREF999")
    assert rule_of("pref203").name == "empty-answer"


def test_errors_come_first() -> None:
    assert [rule.code for rule in worst(["PREF306", "PREF104", "PREF201", "PREF103"])] == [
        *("PREF103", "PREF201", "PREF104", "PREF306")
    ]
