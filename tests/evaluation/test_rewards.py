import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from rlhf_forge.data.records import user
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.rewards import Asked, Reward
from rlhf_forge.reward_terms import RewardTerm, terms_of

HERE = __name__
OF_MODEL = torch.tensor([0.1, -0.7, 1.3])
ASKED = Asked(
    prompts=[user("one"), user("two"), user("three")],
    responses=["a", "bbb", "cc"],
    records=[{"worth": 4}, {"worth": 5}, {"worth": 6}],
)
NOTHING = 3
RELEASE = threading.Event()


def length(prompts: Any, responses: Sequence[str], records: Any) -> list[int]:
    return [len(response) for response in responses]


def worth(prompts: Any, responses: Any, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"score": torch.tensor([float(record["worth"]) for record in records])}


def fails(prompts: Any, responses: Any, records: Any) -> list[float]:
    raise KeyError("worth\nand more")


def too_few(prompts: Any, responses: Any, records: Any) -> list[float]:
    return [1.0]


def nan(prompts: Any, responses: Any, records: Any) -> list[float]:
    return [1.0, float("nan"), 2.0]


def infinite(prompts: Any, responses: Any, records: Any) -> list[float]:
    return [-float("inf"), 1.0, 2.0]


def beyond_float32(prompts: Any, responses: Any, records: Any) -> list[float]:
    return [1.0, 1.0, 1e300]


def words(prompts: Any, responses: Any, records: Any) -> list[str]:
    return ["1", "2", "3"]


def hangs(prompts: Any, responses: Any, records: Any) -> list[float]:
    RELEASE.wait()
    return [0.0, 0.0, 0.0]


def reward(*terms: tuple[str, float], timeout: float | None = None) -> Reward:
    return Reward([RewardTerm(source, weight) for source, weight in terms], timeout)


def scores(given: Reward) -> torch.Tensor:
    return given.scores(OF_MODEL, lambda: ASKED, when="iteration 7")


def untouched() -> Asked:
    raise AssertionError("nobody asks")


def test_a_reward_model_alone_gives_its_scores_bit_for_bit_and_nobody_else_is_asked() -> None:
    alone = Reward(terms_of("there/artefact"))
    assert torch.equal(alone.scores(OF_MODEL, untouched, when=""), OF_MODEL)
    assert alone.functions == []
    assert alone.model == RewardTerm("there/artefact")


def test_a_function_alone_gives_its_numbers_and_the_model_is_not_read() -> None:
    alone = Reward(terms_of(f"{HERE}:length"))
    of_model = torch.full((3,), float("nan"))
    assert alone.scores(of_model, lambda: ASKED, when="").tolist() == [1.0, 3.0, 2.0]
    assert alone.model is None


def test_a_function_may_give_a_dict_with_score() -> None:
    assert scores(reward((f"{HERE}:worth", 1.0))).tolist() == [4.0, 5.0, 6.0]


def test_terms_are_weighted_and_added() -> None:
    mixed = scores(reward((f"{HERE}:length", 0.5), ("there", 2.0), (f"{HERE}:worth", -1.0)))
    assert_close(mixed, torch.tensor([0.5 + 0.2 - 4, 1.5 - 1.4 - 5, 1.0 + 2.6 - 6]))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("fails", "raised KeyError: 'worth"),
        ("too_few", "gave 1 scores for 3 responses"),
        ("nan", "gave nan for response 1 of 3, and a score must be a finite number"),
        ("infinite", "gave -inf for response 0 of 3, and a score must be a finite number"),
        ("beyond_float32", "gave inf for response 2 of 3, and a score must be a finite number"),
        ("words", "must give numbers"),
    ],
)
def test_a_function_that_gives_no_scores_is_told_with_the_iteration(name: str, fault: str) -> None:
    with pytest.raises(UserError) as caught:
        scores(reward((f"{HERE}:length", 1.0), (f"{HERE}:{name}", 1.0)))
    assert f"reward, iteration 7: {HERE}:{name}: {fault}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_function_that_takes_too_long_is_told_and_keeps_no_process_alive() -> None:
    slow = reward((f"{HERE}:hangs", 1.0), timeout=0.05)
    try:
        with pytest.raises(UserError) as caught:
            scores(slow)
        left = [thread for thread in threading.enumerate() if thread.daemon and thread.is_alive()]
        assert left
    finally:
        RELEASE.set()
    assert str(caught.value) == (
        f"reward, iteration 7: {HERE}:hangs: took longer than 0.05 s for 3 responses"
    )
    assert "reward_timeout" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("terms", "rule"),
    [
        ([], "one term or more, and one reward model at most, got 0 and 0"),
        ([("a", 1.0), ("b", 1.0)], "one reward model at most, got 2 and 2"),
        ([(f"{HERE}:length", 0.0)], "finite and not 0, got 0.0"),
        ([("a", float("nan"))], "finite and not 0, got nan"),
    ],
)
def test_a_sum_that_makes_no_sense_is_refused(terms: list[tuple[str, float]], rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        reward(*terms)
    assert str(caught.value).startswith("reward must have ")


@pytest.mark.parametrize("name", ["nowhere", "NOTHING"])
def test_a_function_that_is_not_there_is_refused_with_its_key(name: str) -> None:
    with pytest.raises(UserError, match=r"model\.init_args\.reward: no function .*" + name):
        reward((f"{HERE}:{name}", 1.0))
