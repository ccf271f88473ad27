from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.modules.ppo_update import Counts, PolicyTerms, UpdateStats, accumulate
from rlhf_forge.modules.settings import Aggregation, UpdateSettings
from rlhf_forge.rollout import Experience, RowTokens, plan_updates, score_rollout
from tests import tiny

TOKENS = tiny.rows(9, 14, 6, 11)
MASK = tiny.spans((4, 9), (5, 14), (2, 6), (3, 11))
FINISHED = torch.ones(4, dtype=torch.bool)
SETTINGS = UpdateSettings(minibatch_size=4)
TERMS = PolicyTerms(temperature=0.7, max_new_tokens=12)
WHOLE = [[0, 1, 2, 3]]


def experience_of(backbone: Backbone, batches: list[list[int]]) -> Experience:
    """Of a policy that has moved since, so that clipping has something to do."""
    rollout = score_rollout(backbone, TOKENS, MASK, FINISHED, batches=batches, temperature=0.7)
    generator = torch.Generator().manual_seed(3)
    noise = 0.3 * torch.randn(TOKENS.shape, generator=generator)
    moved = replace(
        rollout,
        log_probs=rollout.log_probs + noise,
        ref_log_probs=rollout.ref_log_probs + 0.2,
        values=rollout.values + noise,
    )
    advantages, returns = torch.randn(2, *TOKENS.shape, generator=generator)
    return Experience.of(moved, MASK, advantages, returns)


def gradients(
    batches: list[list[int]],
    settings: UpdateSettings = SETTINGS,
    terms: PolicyTerms = TERMS,
    **changes: Any,
) -> tuple[UpdateStats, dict[str, Tensor]]:
    """Statistics, and flat gradients by role, of one step over all rows cut into ``batches``."""
    backbone = tiny.four_roles(tiny.open_tiny())
    experience = replace(experience_of(backbone, batches), **changes)
    parts = [experience.rows(rows) for rows in batches]
    counts = Counts.of([part.learnt for part in parts], terms.max_new_tokens)
    stats = accumulate(
        backbone, parts, settings, terms, backward=torch.autograd.backward, counts=counts
    )
    return stats, {role: flat(backbone, role) for role in ("policy", "value")}


def flat(backbone: Backbone, role: str) -> Tensor:
    parts = [p.grad.flatten() for p in backbone.parameters_of(role) if p.grad is not None]
    return torch.cat(parts) if parts else torch.zeros(0)


def both(gradient: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient["policy"], gradient["value"]])


@pytest.mark.parametrize("batches", [[[1], [3], [0], [2]], [[1, 3], [0, 2]], [[1, 0, 2], [3]]])
def test_how_a_step_is_cut_into_micro_batches_changes_nothing(batches: list[list[int]]) -> None:
    terms = replace(TERMS, kl_coef=0.2)
    for aggregation in ("token", "sequence", "constant"):
        settings = replace(SETTINGS, loss_aggregation=aggregation, entropy_coef=0.1)
        _, expected = gradients(WHOLE, settings, terms)
        _, gradient = gradients(batches, settings, terms)
        assert (both(gradient) - both(expected)).norm() <= 1e-5 * both(expected).norm()
    whole, _ = gradients(WHOLE)
    stats, _ = gradients(batches)
    assert stats.approx_kl == pytest.approx(whole.approx_kl, rel=1e-4)
    assert stats.clip_fraction == pytest.approx(whole.clip_fraction)
    assert stats.ratio_max == pytest.approx(whole.ratio_max, rel=1e-4)


def test_clipping_and_gradients_were_really_at_work_in_these_tests() -> None:
    stats, gradient = gradients(WHOLE)
    assert 0 < stats.clip_fraction < 1
    assert stats.value_clip_fraction > 0
    assert gradient["policy"].norm() > 0
    assert gradient["value"].norm() > 0


@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_the_first_minibatch_has_ratio_one_and_no_kl(precision: str) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(precision))  # type: ignore[arg-type]
    plan = plan_updates(
        RowTokens.of(TOKENS, MASK, pads=backbone.pads),
        epochs=1,
        minibatch_size=2,
        max_tokens=14,
        seed=0,
        iteration=0,
    )
    batches = [rows for minibatch in plan[0] for rows in minibatch]
    rollout = score_rollout(backbone, TOKENS, MASK, FINISHED, batches=batches, temperature=1.0)
    assert torch.equal(rollout.log_probs, rollout.ref_log_probs)
    zeros = torch.zeros(TOKENS.shape)
    learnt = MASK & torch.tensor([True, False, True, False]).unsqueeze(1)
    experience = Experience.of(rollout, learnt, zeros + 1, zeros)
    first = [experience.rows(rows) for rows in plan[0][0]]
    terms = replace(TERMS, temperature=1.0)
    counts = Counts.of([part.learnt for part in first], terms.max_new_tokens)
    stats = accumulate(
        backbone, first, SETTINGS, terms, backward=torch.autograd.backward, counts=counts
    )
    assert stats.ratio_max == 1.0
    assert stats.approx_kl == 0.0
    assert stats.clip_fraction == 0.0


def differs(one: dict[str, Tensor], other: dict[str, Tensor], role: str = "policy") -> bool:
    return bool((one[role] - other[role]).norm() > 1e-3 * one[role].norm())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clip_range_high", 0.05),
        ("clip_range", 0.05),
        ("dual_clip", 1.01),
        ("loss_aggregation", "sequence"),
        ("loss_aggregation", "constant"),
        ("entropy_coef", 0.1),
    ],
)
def test_every_option_of_the_policys_loss_changes_its_gradient(key: str, value: Any) -> None:
    _, plain = gradients(WHOLE)
    _, changed = gradients(WHOLE, replace(SETTINGS, **{key: value}))
    assert differs(plain, changed)
    assert_close(plain["value"], changed["value"])


@pytest.mark.parametrize(("key", "value"), [("value_clip_range", 0.05), ("value_coef", 0.5)])
def test_every_option_of_the_critics_loss_changes_its_gradient(key: str, value: float) -> None:
    _, plain = gradients(WHOLE)
    _, changed = gradients(WHOLE, replace(SETTINGS, **{key: value}))  # type: ignore[arg-type]
    assert differs(plain, changed, "value")
    assert torch.equal(plain["policy"], changed["policy"])


def test_a_price_of_kl_in_the_loss_pulls_towards_the_reference() -> None:
    """By k2: at rest but for the price, its gradient makes every token as likely as there."""
    backbone = tiny.four_roles(tiny.open_tiny())
    towards = experience_of(backbone, WHOLE).ref_log_probs
    with backbone.using("policy"):
        log_probs, _ = backbone.log_probs(TOKENS, MASK, temperature=0.7)
    gaps = torch.where(MASK, log_probs - towards, 0)
    torch.autograd.backward(0.2 * gaps.square().sum() / 2 / MASK.sum())
    expected = flat(backbone, "policy")
    still = torch.zeros(TOKENS.shape)
    _, priced = gradients(WHOLE, terms=replace(TERMS, kl_coef=0.2), advantages=still)
    assert expected.norm() > 1e-3
    assert (priced["policy"] - expected).norm() <= 1e-5 * expected.norm()
    _, free = gradients(WHOLE, advantages=still)
    assert not free["policy"].any()


def test_a_bonus_for_entropy_asks_for_more_of_it() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    with backbone.using("policy"):
        _, entropy = backbone.log_probs(TOKENS, MASK, temperature=0.7)
    torch.autograd.backward(-0.1 * entropy[MASK].mean())
    expected = flat(backbone, "policy")
    still = torch.zeros(TOKENS.shape)
    _, paid = gradients(WHOLE, replace(SETTINGS, entropy_coef=0.1), advantages=still)
    assert expected.norm() > 1e-4
    assert (paid["policy"] - expected).norm() <= 1e-5 * expected.norm()


def test_while_only_the_critic_learns_the_policy_gets_no_gradient() -> None:
    stats, gradient = gradients(WHOLE, terms=replace(TERMS, trained=False))
    assert gradient["policy"].numel() == 0
    assert gradient["value"].norm() > 0
    assert stats.ratio_max > 1


@pytest.mark.parametrize("advantage", ["rloo", "grpo", "dr_grpo"])
def test_without_a_critic_there_is_no_loss_of_one(advantage: Any) -> None:
    stats, gradient = gradients(WHOLE, replace(SETTINGS, advantage=advantage))
    assert gradient["value"].numel() == 0
    assert stats.value_clip_fraction == 0


def losses(aggregation: Aggregation, learnt: Tensor) -> float:
    """Policy loss of a step at ratio 1 with advantage -1, so every token costs exactly 1."""
    backbone = tiny.four_roles(tiny.open_tiny())
    found: list[float] = []
    rollout = score_rollout(backbone, TOKENS, MASK, FINISHED, batches=WHOLE, temperature=0.7)
    costs = torch.where(torch.arange(14) < 6, -2.0, -1.0).expand(TOKENS.shape)
    experience = Experience.of(rollout, learnt, costs, torch.zeros(TOKENS.shape))
    settings = replace(SETTINGS, loss_aggregation=aggregation, advantage="rloo")

    def backward(loss: Tensor) -> None:
        found.append(loss.item())

    parts = [experience.rows([0, 1]), experience.rows([2, 3])]
    counts = Counts.of([part.learnt for part in parts], TERMS.max_new_tokens)
    accumulate(backbone, parts, settings, TERMS, backward=backward, counts=counts)
    return sum(found)


# Tokens that cost 2 and those that cost 1, row by row: the first six places cost 2.
TWOS, ONES = (2, 1, 4, 3), (3, 8, 0, 5)


def test_aggregations_by_hand() -> None:
    sums = [2 * two + one for two, one in zip(TWOS, ONES, strict=True)]
    lengths = [two + one for two, one in zip(TWOS, ONES, strict=True)]
    assert losses("token", MASK) == pytest.approx(sum(sums) / sum(lengths))
    assert losses("sequence", MASK) == pytest.approx(mean_of(sums, lengths))
    assert losses("constant", MASK) == pytest.approx(sum(sums) / (4 * 12))


def test_responses_that_teach_nothing_count_nowhere() -> None:
    learnt = MASK & torch.tensor([True, False, True, True]).unsqueeze(1)
    kept = [0, 2, 3]
    sums = [2 * TWOS[row] + ONES[row] for row in kept]
    lengths = [TWOS[row] + ONES[row] for row in kept]
    assert losses("token", learnt) == pytest.approx(sum(sums) / sum(lengths))
    assert losses("sequence", learnt) == pytest.approx(mean_of(sums, lengths))
    assert losses("constant", learnt) == pytest.approx(sum(sums) / (3 * 12))


def mean_of(sums: Sequence[int], lengths: Sequence[int]) -> float:
    return sum(s / n for s, n in zip(sums, lengths, strict=True)) / len(sums)
