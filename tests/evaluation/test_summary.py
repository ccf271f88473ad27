from dataclasses import replace
from typing import Any

import pytest
import torch

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.records import Pair, assistant, user
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.policies import Answers
from rlhf_forge.evaluation.summary import EvaluationSettings, Evaluator
from rlhf_forge.generation.sampler import Sampling
from tests import tiny
from tests.evaluation.test_policies import PROMPTS, SAMPLING, TEMPLATE

HERE = __name__


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    backbone = tiny.four_roles(tiny.open_tiny())
    backbone.add_role("policy", tiny.random_weights(backbone, seed=7), trainable=False)
    backbone.add_bare_role("base")
    return Evaluator(
        backbone=backbone,
        template=TEMPLATE,
        prompts=PROMPTS,
        pairs=[pair(4, "facts"), pair(7, "style"), pair(9, "style")],
        sampling=SAMPLING,
        settings=EvaluationSettings(judge=f"{HERE}:letters"),
    )


def pair(length: int, kind: str) -> PairExample:
    record = Pair(user("a"), assistant("b"), assistant("c"), "here", {"kind": kind})
    chosen, rejected = (tiny.rows(length, seed=seed)[0].tolist() for seed in (length, length + 50))
    response = [False, False, *[True] * (length - 2)]
    return PairExample(chosen, rejected, response, response, record)


def letters(prompts: Any, responses: list[str], records: Any) -> dict[str, list[float]]:
    lengths = [float(len(text)) for text in responses]
    return {"score": lengths, "correct": [float(length > 10) for length in lengths]}


def first_is_longer(
    records: list[dict[str, Any]], first: list[str], second: list[str], *, seed: int
) -> list[dict[str, Any]]:
    assert all("finished_first" in record and "finished_second" in record for record in records)
    return [
        {"first_preferred": len(a) > len(b), "agreement": 0.75}
        for a, b in zip(first, second, strict=True)
    ]


def fails(*_: Any, **__: Any) -> None:
    raise KeyError("answer")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def reward(backbone: Backbone, answers: Answers) -> list[float]:
    """The reward model's score of each answer by itself."""
    scores = []
    for example, response in zip(PROMPTS, answers.responses, strict=True):
        tokens = torch.tensor([[*example.tokens, *response.tokens]])
        mask = torch.arange(tokens.shape[1]).unsqueeze(0) >= len(example.tokens)
        with torch.no_grad():
            scores.append(score(backbone, tokens, mask).item())
    return scores


def test_a_run_is_told_before_and_after(evaluator: Evaluator) -> None:
    found = evaluator.summary()
    assert list(found["models"]) == ["base", "sft", "ppo"]
    before, after = (
        [float(len(text)) for text in evaluator.answers(role).texts]
        for role in ("reference", "policy")
    )
    assert found["models"]["sft"]["gold"] == mean(before)
    assert found["models"]["ppo"]["gold"] == mean(after)
    gains = [b - a for a, b in zip(before, after, strict=True)]
    assert found["gain"]["gold"] == pytest.approx(mean(gains))
    wins = [1.0 if gain > 0 else 0.5 if gain == 0 else 0.0 for gain in gains]
    assert found["win_rate"]["ppo_vs_sft"] == mean(wins)


def test_kl_is_measured_from_the_reference(evaluator: Evaluator) -> None:
    models = evaluator.summary()["models"]
    assert models["sft"]["kl"] == 0.0
    kl = evaluator.answers("policy").kl
    assert kl is not None
    assert models["ppo"]["kl"] == pytest.approx(mean(kl))
    assert models["base"]["kl"] != 0.0


def test_where_the_reference_is_the_bare_base_ppo_is_held_against_that(
    evaluator: Evaluator,
) -> None:
    backbone = tiny.open_tiny()
    for role in ("policy", "reward"):
        weights = evaluator.backbone.weights_of(role)
        backbone.add_role(role, weights, trainable=False)
    backbone.add_bare_role("reference")
    found = replace(evaluator, backbone=backbone, has_sft=False).summary()
    assert list(found["models"]) == ["base", "ppo"]
    assert found["models"]["base"]["kl"] == 0.0
    assert found["win_rate"].keys() == {"ppo_vs_base", "low", "high"}
    assert found["models"]["base"]["gold"] == evaluator.summary()["models"]["base"]["gold"]


def test_accuracy_is_told_sampled_and_greedy_if_the_judge_tells_it(evaluator: Evaluator) -> None:
    row = evaluator.summary()["models"]["ppo"]
    texts = evaluator.answers("policy").texts
    assert row["accuracy"] == mean([float(len(text) > 10) for text in texts])
    greedy = replace(evaluator, sampling=Sampling(temperature=0, max_new_tokens=6))
    greedy_texts = greedy.answers("policy").texts
    assert row["accuracy_greedy"] == mean([float(len(text) > 10) for text in greedy_texts])


def test_every_response_is_told_with_its_score(evaluator: Evaluator) -> None:
    rows = list(evaluator.responses())
    assert [row["prompt"] for row in rows] == [p.record.prompt[-1]["content"] for p in PROMPTS]
    found = evaluator.summary()["models"]
    for name, role in evaluator.roles.items():
        given = [row["models"][name] for row in rows]
        assert [one["text"] for one in given] == evaluator.answers(role).texts
        assert mean([one["score"] for one in given]) == found[name]["gold"]
        assert mean([one["tokens"] for one in given]) == found[name]["length"]
        assert mean([one["finished"] for one in given]) == found[name]["eos"]


def test_without_a_judge_the_reward_model_judges_and_tells_no_accuracy(
    evaluator: Evaluator,
) -> None:
    row = replace(evaluator, settings=EvaluationSettings()).summary()["models"]["ppo"]
    expected = reward(evaluator.backbone, evaluator.answers("policy"))
    assert row["gold"] == pytest.approx(mean(expected), abs=1e-4)
    assert (row["accuracy"], row["accuracy_greedy"]) == (None, None)


def test_reward_accuracy_is_told_for_all_held_out_pairs_and_by_their_kind(
    evaluator: Evaluator,
) -> None:
    found = evaluator.summary()["reward"]
    assert {name: row["n"] for name, row in found.items()} == {"mixed": 3, "facts": 1, "style": 2}
    assert found["mixed"]["accuracy"] == pytest.approx(
        (found["facts"]["accuracy"] + 2 * found["style"]["accuracy"]) / 3
    )


def test_a_kind_called_mixed_does_not_take_the_place_of_all_pairs(evaluator: Evaluator) -> None:
    pairs = [pair(4, "mixed"), pair(7, "style")]
    found = replace(evaluator, pairs=pairs).summary()["reward"]
    assert {name: row["n"] for name, row in found.items()} == {
        "mixed": 2,
        "mixed_kind": 1,
        "style": 1,
    }


def test_on_policy_accuracy_is_of_two_responses_of_the_reference_to_each_prompt(
    evaluator: Evaluator,
) -> None:
    settings = replace(evaluator.settings, annotator=f"{HERE}:first_is_longer")
    found = replace(evaluator, settings=settings).summary()["reward"]["on_policy"]
    first = evaluator.answers("reference")
    second = replace(evaluator, settings=replace(settings, seed=1)).answers("reference")
    sides = zip(
        first.texts,
        second.texts,
        reward(evaluator.backbone, first),
        reward(evaluator.backbone, second),
        strict=True,
    )
    right = [(a > b) == (len(one) > len(other)) for one, other, a, b in sides if one != other]
    assert found["n"] == len(right) > 0
    assert found["accuracy"] == mean([float(r) for r in right])
    assert found["ceiling"] == 0.75


def test_an_annotator_that_fails_is_told(evaluator: Evaluator) -> None:
    settings = replace(evaluator.settings, annotator=f"{HERE}:fails")
    with pytest.raises(UserError, match=f"{HERE}:fails: raised KeyError"):
        replace(evaluator, settings=settings).summary()


def percent(records: list[Any], first: Any, second: Any, *, seed: int) -> list[dict[str, float]]:
    return [{"first_preferred": 80.0, "agreement": 0.9}] * len(records)


def test_an_annotator_that_gives_no_shares_is_told_what_it_must_give(evaluator: Evaluator) -> None:
    settings = replace(evaluator.settings, annotator=f"{HERE}:percent")
    with pytest.raises(UserError, match=f"{HERE}:percent: must give .* from 0 to 1"):
        replace(evaluator, settings=settings).summary()


@pytest.mark.parametrize("settings", [{"number": 0}, {"seed": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        EvaluationSettings(**settings)
