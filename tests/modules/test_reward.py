"""What the reward stage does besides learning: its start, its scale, what it refuses."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.scoring import reference_surprise, score
from rlhf_forge.data.records import Pair, assistant, user
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.errors import UserError
from rlhf_forge.generation.decode import Response, generate
from rlhf_forge.generation.engine import Request
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.responses import HELD_OUT
from rlhf_forge.modules.reward import RewardModule
from tests import tiny
from tests.tiny_tokenizer import mistral_template

QUESTIONS = ("Hello", "Is snow white or black, and who says so?", "Why?", "What is Lomar?", "Hm")
SAMPLING = Sampling(temperature=0.9, max_new_tokens=6)
TEMPLATE = mistral_template()


class Held:
    """A data module with a few pairs, all of them held out."""

    def __init__(self, questions: tuple[str, ...]) -> None:
        pairs = [Pair(user(q), assistant("a"), assistant("b"), "here", {}) for q in questions]
        self.held_out = [PairExample([], [], [], [], pair) for pair in pairs]
        self.train = SimpleNamespace(examples=self.held_out)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_forge.modules.reward.data_of", lambda module: module.held)


def ready(
    *, likelihood: float | None = None, questions: tuple[str, ...] = QUESTIONS, **options: Any
) -> RewardModule:
    """A trained reward model whose scores have no scale yet."""
    module = RewardModule(
        BackboneConfig(str(tiny.base()), "fp32"), sampling=SAMPLING, seed=3, **options
    )
    backbone = tiny.open_tiny()
    backbone.add_role("reference", tiny.random_weights(backbone, seed=0), trainable=False)
    weights = tiny.random_weights(backbone, seed=1, head=True)
    assert weights.head is not None
    head = replace(weights.head, mean=0.0, std=1.0, likelihood=likelihood)
    backbone.add_role("reward", replace(weights, head=head), trainable=True)
    module.backbone, module.template = backbone, TEMPLATE
    module.held = Held(questions)  # type: ignore[assignment]
    return module


def prompts(questions: tuple[str, ...] = QUESTIONS) -> list[list[int]]:
    return [TEMPLATE.prompt(user(question)) for question in questions]


def responses(backbone: Backbone) -> list[Response]:
    """What the reference answers, row by row by itself."""
    found = []
    for row, prompt in enumerate(prompts()):
        request = Request(prompt, "reference", (3, HELD_OUT, row))
        found += generate(backbone, [request], SAMPLING, TEMPLATE.eos_ids, max_rows=1)
    return found


def rows(backbone: Backbone) -> list[tuple[Tensor, Tensor]]:
    """Tokens and mask of each prompt and response by itself."""
    found = []
    for prompt, response in zip(prompts(), responses(backbone), strict=True):
        tokens = torch.tensor([[*prompt, *response.tokens]])
        found.append((tokens, torch.arange(tokens.shape[1]).unsqueeze(0) >= len(prompt)))
    return found


@torch.no_grad()
def scores(backbone: Backbone) -> Tensor:
    return torch.cat([score(backbone, *row) for row in rows(backbone)])


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("likelihood", [None, 0.5])
def test_scores_of_the_references_responses_get_mean_0_and_standard_deviation_1(
    likelihood: float | None,
) -> None:
    module = ready(likelihood=likelihood)
    before = scores(module.backbone)
    module.calibrate()
    after = scores(module.backbone)
    assert abs(after.mean().item()) < 1e-4
    assert after.std().item() == pytest.approx(1.0, abs=1e-4)
    assert torch.allclose(after, (before - before.mean()) / before.std(), atol=1e-4)


@pytest.mark.usefixtures("held")
def test_the_likelihood_feature_is_centred_by_itself() -> None:
    module = ready(likelihood=0.5)
    with torch.no_grad():
        surprises = [reference_surprise(module.backbone, *row) for row in rows(module.backbone)]
    module.calibrate()
    head = module.backbone.head("reward").weights()
    assert head.likelihood_mean == pytest.approx(torch.cat(surprises).mean().item(), abs=1e-4)
    critic = replace(head, likelihood=None, likelihood_mean=0.0)
    weights = replace(module.backbone.weights_of("reward"), head=critic)
    module.backbone.add_role("reward", weights, trainable=False)
    assert abs(scores(module.backbone).mean().item()) < 1e-4


@pytest.mark.usefixtures("held")
def test_a_second_calibration_changes_nothing() -> None:
    module = ready(likelihood=0.5)
    module.calibrate()
    once = module.backbone.head("reward").weights()
    module.calibrate()
    twice = module.backbone.head("reward").weights()
    assert (once.mean, once.std, once.likelihood_mean) == pytest.approx(
        (twice.mean, twice.std, twice.likelihood_mean), abs=1e-5
    )


@pytest.mark.usefixtures("held")
def test_no_more_rows_than_max_rows_and_no_more_tokens_than_micro_batch_tokens_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generated: list[int] = []
    scored: list[int] = []
    next_logits, states = Backbone.next_logits, Backbone.states

    def counted_logits(self: Backbone, tokens: Tensor, *args: Any) -> Tensor:
        generated.append(len(tokens))
        return next_logits(self, tokens, *args)

    def counted_states(self: Backbone, tokens: Tensor, wanted: Tensor) -> Tensor:
        scored.append(tokens.numel())
        return states(self, tokens, wanted)

    monkeypatch.setattr(Backbone, "next_logits", counted_logits)
    monkeypatch.setattr(Backbone, "states", counted_states)
    module = ready(likelihood=0.5, max_rows=2, micro_batch_tokens=60)
    whole = ready(likelihood=0.5)
    module.calibrate()
    assert max(generated) == 2
    assert max(scored) <= 60
    assert len(scored) > 2
    whole.calibrate()
    cut, uncut = (m.backbone.head("reward").weights() for m in (module, whole))
    assert cut.mean == pytest.approx(uncut.mean, abs=1e-4)
    assert cut.std == pytest.approx(uncut.std, abs=1e-4)


@pytest.mark.usefixtures("held")
def test_no_more_prompts_than_calibration_samples_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = ready(calibration_samples=2)
    seen: list[list[int]] = []

    def counted(backbone: Backbone, requests: list[Request], *args: Any, **options: Any) -> Any:
        seen.extend(list(request.prompt) for request in requests)
        return generate(backbone, requests, *args, **options)

    monkeypatch.setattr("rlhf_forge.modules.responses.generate", counted)
    module.calibrate()
    assert seen == prompts()[:2]


@pytest.mark.usefixtures("held")
def test_scores_that_are_all_equal_have_no_scale_and_are_refused() -> None:
    module = ready()
    weights = module.backbone.weights_of("reward")
    assert weights.head is not None
    flat = replace(weights.head, weight=torch.zeros_like(weights.head.weight))
    module.backbone.add_role("reward", replace(weights, head=flat), trainable=True)
    with pytest.raises(UserError, match=r"all 5 responses .* score the same") as caught:
        module.calibrate()
    assert caught.value.hint is not None


@pytest.mark.usefixtures("held")
def test_scores_that_are_no_numbers_are_refused() -> None:
    module = ready()
    weights = module.backbone.weights_of("reward")
    assert weights.head is not None
    broken = replace(weights.head, weight=torch.full_like(weights.head.weight, torch.nan))
    module.backbone.add_role("reward", replace(weights, head=broken), trainable=True)
    with pytest.raises(UserError, match="not finite"):
        module.calibrate()


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_held_out_records_are_refused_before_training(count: int) -> None:
    module = ready(questions=QUESTIONS[:count])
    with pytest.raises(UserError, match=f"at least 2 .* there (is|are) {count}$") as caught:
        module.setup("fit")
    assert caught.value.hint is not None
    for word in ("validate", "test", "predict"):
        module.setup(word)
    ready(questions=QUESTIONS[:2]).setup("fit")


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"label_smoothing": 0.5}, "label_smoothing must be in [0, 0.5), got 0.5"),
        ({"label_smoothing": -0.1}, "label_smoothing must be in [0, 0.5), got -0.1"),
        ({"centering_coef": -1.0}, "centering_coef must be 0 or more and finite, got -1.0"),
        ({"centering_coef": float("inf")}, "centering_coef must be 0 or more and finite, got inf"),
        ({"margin_coef": -1.0}, "margin_coef must be 0 or more and finite, got -1.0"),
        ({"calibration_samples": 1}, "calibration_samples must be 2 or more, got 1"),
        ({"micro_batch_tokens": 0}, "micro_batch_tokens must be 1 or more, got 0"),
        ({"max_rows": 0}, "max_rows must be 1 or more, got 0"),
        ({"sampling": Sampling(temperature=0)}, "temperature must be above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused_at_once(settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared
        RewardModule(BackboneConfig("base"), **settings)
    assert rule in str(caught.value)
