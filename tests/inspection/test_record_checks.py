from typing import Any

import pytest

from rlhf_forge.data.records import Pair, assistant, user
from rlhf_forge.inspection.record_checks import checks_of
from rlhf_forge.inspection.words import worded
from tests.inspection.made import LONG, pair


def told(one: Pair) -> dict[str, str]:
    return checks_of(one, worded(one), one.fields)


def test_a_plain_pair_breaks_nothing() -> None:
    assert told(pair()) == {}


@pytest.mark.parametrize(
    ("made", "code", "detail"),
    [
        (pair(user("a") + user("b")), "PREF104", "two turns of user"),
        (pair(user("a") + assistant("b") + assistant("c")), "PREF104", "two turns of assistant"),
        (pair(chosen="a\ufffd"), "PREF105", "U+FFFD"),
        (pair("a\u202eb"), "PREF105", "U+202E"),
        (pair(rejected="a\x07"), "PREF105", "U+0007"),
        (pair(chosen="fish &amp; chips"), "PREF105", "&amp;"),
        (pair(chosen="fish<br/>chips"), "PREF105", "<br/>"),
        (pair(chosen="Hello.", rejected=" Hello.\n"), "PREF201", ""),
        (pair(chosen=" ", rejected="a"), "PREF203", "chosen"),
        (pair(chosen="", rejected="\n"), "PREF203", "chosen and rejected"),
        (pair(chosen="Hello you.", rejected="hello  you."), "PREF204", ""),
        (pair(" "), "PREF206", ""),
        (pair(score_chosen=3, score_rejected=4.5), "PREF207", ""),
        (pair(chosen_rating=3, rejected_rating=3), "PREF207", ""),
        (pair(chosen="I was trained by OpenAI."), "PREF208", "trained by openai"),
        (pair(chosen=LONG, rejected=f"{LONG} sixteen"), "PREF209", ""),
        (
            pair(user("a") + assistant("No.") + user("b"), chosen="no."),
            "PREF210",
            "a turn of assistant",
        ),
        (pair(rejected="a\nHuman: b"), "PREF501", "Human:"),
        (pair(rejected="Human: b"), "PREF501", "Human:"),
        (pair("Assistant: b"), "PREF501", "Assistant:"),
        (pair("[INST] a [/INST]"), "PREF501", "[INST]"),
        (pair(chosen="a</s> b"), "PREF501", "</s>"),
        (pair("<s>a"), "PREF502", "<s>"),
    ],
)
def test_a_fault_is_told_by_its_code_and_nothing_else_is(
    made: Pair, code: str, detail: str
) -> None:
    assert told(made) == {code: detail}


@pytest.mark.parametrize(
    "made",
    [
        pair(user("a") + assistant("b") + user("c")),
        pair([{"role": "system", "content": "s"}, *user("a")]),
        pair(chosen="a & b < c\n\ttab"),
        pair(chosen="👩‍👧 mo\u200cvie"),
        pair([]),
        pair(score_chosen=4, score_rejected=3),
        pair(score_chosen="4", score_rejected=None),
        pair(score_chosen=float("nan"), score_rejected=1.0),
        pair(chosen="a</s>", rejected="b</s>"),
        pair(chosen=f"{LONG} a b c d e", rejected=LONG),
    ],
)
def test_what_only_looks_like_a_fault_is_none(made: Any) -> None:
    assert told(made) == {}
