from collections.abc import Sequence
from typing import Any, NoReturn

import pytest

from rlhf_forge.data.records import user
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.judges import Judgement, judge

HERE = __name__
PROMPTS = [user("one"), user("two")]
RESPONSES = ["a", "bbb"]
RECORDS: list[dict[str, Any]] = [{"answer": "a"}, {"answer": "b"}]


def length(prompts: Any, responses: Sequence[str], records: Any) -> list[int]:
    return [len(response) for response in responses]


def right(prompts: Any, responses: Sequence[str], records: Any) -> dict[str, list[float]]:
    correct = [float(r == record["answer"]) for r, record in zip(responses, records, strict=True)]
    return {"score": [2 * c for c in correct], "correct": correct}


def fails(prompts: Any, responses: Any, records: Any) -> NoReturn:
    raise KeyError("gold\nand more")


def leaves(prompts: Any, responses: Any, records: Any) -> NoReturn:
    raise SystemExit(3)


def digits(prompts: Any, responses: Any, records: Any) -> str:
    return "12"


def not_finite(prompts: Any, responses: Any, records: Any) -> list[float]:
    return [1.0, float("nan")]


def too_few(prompts: Any, responses: Any, records: Any) -> list[float]:
    return [1.0]


def too_few_correct(prompts: Any, responses: Any, records: Any) -> dict[str, list[float]]:
    return {"score": [1.0, 2.0], "correct": [1.0]}


def words(prompts: Any, responses: Any, records: Any) -> list[str]:
    return ["good", "bad"]


def nothing(prompts: Any, responses: Any, records: Any) -> None:
    return None


def nameless(prompts: Any, responses: Any, records: Any) -> dict[str, list[float]]:
    return {"scores": [1.0, 2.0]}


def asked(name: str) -> Judgement:
    return judge(f"{HERE}:{name}", PROMPTS, RESPONSES, RECORDS)


def test_a_judge_may_return_scores_alone() -> None:
    assert asked("length") == Judgement([1.0, 3.0], None)


def test_a_judge_may_say_what_is_correct() -> None:
    assert asked("right") == Judgement([2.0, 0.0], [1.0, 0.0])


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("fails", "raised KeyError: 'gold"),
        ("leaves", "raised SystemExit: 3"),
        ("digits", "must give numbers"),
        ("too_few", "gave 1 scores for 2 responses"),
        ("too_few_correct", "gave 1 marks of correct for 2 responses"),
        ("words", "must give numbers"),
        ("nothing", "must give numbers"),
        ("nameless", "must give numbers"),
        ("not_finite", "gave nan for response 1 of 2"),
    ],
)
def test_a_judge_that_is_none_is_told_in_one_line(name: str, fault: str) -> None:
    with pytest.raises(UserError) as caught:
        asked(name)
    assert f"{HERE}:{name}: {fault}" in str(caught.value)
    assert "\n" not in str(caught.value)
