from typing import Any

import pytest
import torch

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.records import Prompt, user
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.evaluation.policies import (
    Answers,
    facts_of,
    judged,
    model_scores,
    sampled_answers,
)
from rlhf_forge.generation.decode import Response
from rlhf_forge.generation.sampler import Sampling
from tests import tiny
from tests.tiny_tokenizer import mistral_template

SAMPLING = Sampling(temperature=0.7, max_new_tokens=6)
TEXTS = ("Hello", "Is snow white or black, and who says so?", "Why?")
TEMPLATE = mistral_template()


def prompt(text: str) -> PromptExample:
    record = Prompt(user(text), "here", {"prompt": text, "wanted": len(text)})
    return PromptExample(TEMPLATE.prompt(record.prompt), record)


PROMPTS = [prompt(text) for text in TEXTS]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    backbone = tiny.four_roles(tiny.open_tiny())
    moved = tiny.random_weights(backbone, seed=7)
    backbone.add_role("policy", moved, trainable=False)
    return backbone


def sampled(backbone: Backbone, role: str = "policy", **changes: Any) -> Answers:
    options: dict[str, Any] = {"sampling": SAMPLING, "seed": 3} | changes
    return sampled_answers(backbone, role, PROMPTS, TEMPLATE, **options)


def log_prob(backbone: Backbone, role: str, row: int, response: list[int]) -> float:
    """Of one whole response by itself, from the logits and without our own functions."""
    tokens = torch.tensor([[*PROMPTS[row].tokens, *response]])
    with torch.no_grad(), backbone.using(role):
        logits = backbone.model.lm_head(backbone.hidden(tokens))[0] / 0.7
    table = logits.log_softmax(-1)
    start = len(PROMPTS[row].tokens)
    return sum(float(table[start + at - 1, token]) for at, token in enumerate(response))


def test_kl_is_what_the_sampled_response_is_likelier_under_the_policy_than_under_the_other(
    backbone: Backbone,
) -> None:
    answers = sampled(backbone)
    assert answers.kl is not None
    for row, response in enumerate(answers.responses):
        ours, theirs = (
            log_prob(backbone, role, row, response.tokens) for role in ("policy", "reference")
        )
        assert answers.kl[row] == pytest.approx(ours - theirs, abs=1e-4)
    assert max(map(abs, answers.kl)) > 0.1


def test_kl_may_be_measured_from_another_role(backbone: Backbone) -> None:
    answers = sampled(backbone, kl_from="value")
    assert answers.kl is not None
    assert answers.kl != sampled(backbone).kl
    [first, *_] = answers.responses
    ours, theirs = (log_prob(backbone, role, 0, first.tokens) for role in ("policy", "value"))
    assert answers.kl[0] == pytest.approx(ours - theirs, abs=1e-4)


def test_a_policy_has_no_kl_from_itself(backbone: Backbone) -> None:
    assert sampled(backbone, "reference").kl == [0.0, 0.0, 0.0]


def test_a_greedy_policy_has_no_kl_to_estimate(backbone: Backbone) -> None:
    greedy = Sampling(temperature=0, max_new_tokens=4)
    answers = sampled(backbone, sampling=greedy)
    assert answers.kl is None
    assert facts_of(answers)["kl"] is None


def test_the_same_seed_gives_the_same_answers_and_another_seed_others(backbone: Backbone) -> None:
    assert sampled(backbone) == sampled(backbone)
    assert sampled(backbone).texts != sampled(backbone, seed=4).texts


def test_a_models_scores_are_those_of_each_row_by_itself(backbone: Backbone) -> None:
    responses = [Response([8, 9, 2], True), Response([7], False), Response([5, 5, 5, 2], True)]
    scores = model_scores(backbone, "reward", PROMPTS, responses)
    for example, response, found in zip(PROMPTS, responses, scores, strict=True):
        tokens = torch.tensor([[*example.tokens, *response.tokens]])
        mask = torch.arange(tokens.shape[1]).unsqueeze(0) >= len(example.tokens)
        with torch.no_grad():
            alone = score(backbone, tokens, mask).item()
        assert found == pytest.approx(alone, abs=1e-4)


def finished_and_wanted(prompts: Any, responses: Any, records: Any) -> list[float]:
    assert [turns[-1]["content"] for turns in prompts] == list(TEXTS)
    assert responses == ["a", "b", "c"]
    return [record["finished"] + record["wanted"] for record in records]


def test_a_judge_sees_prompts_texts_and_records_with_what_ended_by_itself() -> None:
    responses = [Response([5, 2], True), Response([6], False), Response([7], False)]
    answers = Answers(["a", "b", "c"], responses, None)
    verdict = judged(f"{__name__}:finished_and_wanted", PROMPTS, answers)
    assert verdict.scores == [len(TEXTS[0]) + 1, len(TEXTS[1]), len(TEXTS[2])]


def test_the_facts_are_means_over_the_responses() -> None:
    responses = [Response([5, 2], True), Response([6, 6, 6, 6], False)]
    assert facts_of(Answers(["a", "b"], responses, [0.5, 1.5])) == {
        "kl": 1.0,
        "length": 3.0,
        "eos": 0.5,
        "n": 2,
    }
