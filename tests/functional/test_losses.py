import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.functional.losses import (
    bradley_terry_loss,
    clipped_policy_loss,
    clipped_value_loss,
    dpo_loss,
    sft_loss,
)

NAN = math.nan


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def all_real(like: Tensor) -> Tensor:
    return torch.ones_like(like, dtype=torch.bool)


def gradient_of(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf)
    return gradient


# -- sft -----------------------------------------------------------------------------------------


def test_sft_loss_by_hand() -> None:
    loss = sft_loss(row(-1, -2, NAN, -4), torch.tensor([[True, True, False, True]]), num_tokens=10)
    assert_close(loss.item(), 0.7)


def test_a_step_without_tokens_costs_nothing() -> None:
    x, mask = row(NAN, NAN), torch.tensor([[False, False]])
    assert sft_loss(x, mask, num_tokens=0) == 0
    assert clipped_policy_loss(x, x, x, mask, clip_range=0.2, num_tokens=0)[0] == 0
    assert clipped_value_loss(x, x, x, mask, clip_range=0.2, num_tokens=0)[0] == 0


@pytest.mark.parametrize("loss", ["sft", "policy", "value", "bradley_terry", "dpo"])
def test_a_negative_count_is_named(loss: str) -> None:
    x, mask, v = row(1), torch.tensor([[True]]), vector(1)
    calls: dict[str, Callable[[], object]] = {
        "sft": lambda: sft_loss(x, mask, num_tokens=-1),
        "policy": lambda: clipped_policy_loss(x, x, x, mask, clip_range=0.2, num_tokens=-1),
        "value": lambda: clipped_value_loss(x, x, x, mask, clip_range=0.2, num_tokens=-1),
        "bradley_terry": lambda: bradley_terry_loss(v, v, num_pairs=-1),
        "dpo": lambda: dpo_loss(v, v, v, v, beta=0.1, num_pairs=-1),
    }
    name = "num_pairs" if loss in ("bradley_terry", "dpo") else "num_tokens"
    with pytest.raises(ValueError, match=f"{name} must be 0 or more, .*: got -1"):
        calls[loss]()


# -- bradley terry -------------------------------------------------------------------------------


def slow_bradley_terry(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor,
    preference: Tensor,
    centering_coef: float,
    label_smoothing: float,
) -> float:
    total = 0.0
    for c, r, m, p in zip(
        *(x.tolist() for x in (chosen, rejected, margin, preference)), strict=True
    ):
        wins = p * (1 - label_smoothing) + (1 - p) * label_smoothing
        chance = 1 / (1 + math.exp(-(c - r - m)))
        total -= wins * math.log(chance) + (1 - wins) * math.log(1 - chance)
        total += centering_coef * (c + r) ** 2
    return total / len(chosen)


def test_bradley_terry_by_hand() -> None:
    # Odds of 3 to 1, and of 1 to 1.
    loss = bradley_terry_loss(vector(math.log(3), 5), vector(0, 5))
    assert_close(loss.item(), (math.log(4 / 3) + math.log(2)) / 2)


def test_bradley_terry_with_everything_is_the_formula() -> None:
    chosen, rejected, margin = torch.randn(3, 20, dtype=torch.float64)
    preference = torch.rand(20, dtype=torch.float64)
    loss = bradley_terry_loss(
        chosen,
        rejected,
        margin=margin,
        preference=preference,
        centering_coef=0.3,
        label_smoothing=0.1,
    )
    expected = slow_bradley_terry(chosen, rejected, margin, preference, 0.3, 0.1)
    assert_close(loss.item(), expected, rtol=1e-13, atol=0)


def test_a_tie_is_cheapest_where_scores_agree() -> None:
    leads = torch.linspace(-3, 3, 61).double()
    losses = [
        bradley_terry_loss(lead[None], vector(0), preference=vector(0.5)).item() for lead in leads
    ]
    assert_close(leads[losses.index(min(losses))].item(), 0.0)


def test_swapping_a_pair_and_its_preference_changes_nothing() -> None:
    chosen, rejected = torch.randn(2, 9, dtype=torch.float64)
    preference = torch.rand(9, dtype=torch.float64)
    assert_close(
        bradley_terry_loss(chosen, rejected, preference=preference, centering_coef=0.1),
        bradley_terry_loss(rejected, chosen, preference=1 - preference, centering_coef=0.1),
    )


def test_a_weight_multiplies_its_pair_whole_and_not_the_count() -> None:
    chosen, rejected = torch.randn(2, 5, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0], dtype=torch.float64)

    def loss(rows: slice, weights: torch.Tensor | None = None) -> float:
        return bradley_terry_loss(
            chosen[rows], rejected[rows], num_pairs=5, centering_coef=0.1, weights=weights
        ).item()

    alone = [loss(slice(row, row + 1)) for row in range(5)]
    by_hand = sum(w * part for w, part in zip(weights.tolist(), alone, strict=True))
    assert_close(loss(slice(0, 5), weights), by_hand)
    assert loss(slice(0, 5), torch.ones(5, dtype=torch.float64)) == loss(slice(0, 5))


def test_a_margin_is_a_handicap_of_the_chosen() -> None:
    chosen, rejected, margin = torch.randn(3, 9, dtype=torch.float64)
    assert_close(
        bradley_terry_loss(chosen, rejected, margin=margin),
        bradley_terry_loss(chosen - margin, rejected),
    )


def test_label_smoothing_is_a_preference_short_of_certainty() -> None:
    chosen, rejected = torch.randn(2, 9, dtype=torch.float64)
    assert_close(
        bradley_terry_loss(chosen, rejected, label_smoothing=0.2),
        bradley_terry_loss(chosen, rejected, preference=torch.full_like(chosen, 0.8)),
    )


def test_only_centering_sees_a_common_shift() -> None:
    chosen, rejected = torch.randn(2, 9, dtype=torch.float64)
    assert_close(bradley_terry_loss(chosen + 7, rejected + 7), bradley_terry_loss(chosen, rejected))
    centred = bradley_terry_loss(chosen, rejected, centering_coef=0.01)
    plain = bradley_terry_loss(chosen, rejected)
    assert_close(centred - plain, 0.01 * (chosen + rejected).square().mean())


@pytest.mark.parametrize("lead", [-1e4, 1e4])
def test_leads_of_any_size_stay_finite_in_float32(lead: float) -> None:
    chosen, rejected = torch.tensor([lead]), torch.zeros(1)
    assert_close(bradley_terry_loss(chosen, rejected).item(), max(-lead, 0.0))
    gradient = gradient_of(lambda x: bradley_terry_loss(x, rejected), chosen)
    assert gradient.item() == (-1 if lead < 0 else 0)


def test_small_losses_keep_their_digits() -> None:
    loss = bradley_terry_loss(vector(30), vector(0))
    assert_close(loss.item(), math.log1p(math.exp(-30)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_pairs_cost_nothing(dtype: torch.dtype) -> None:
    empty = torch.zeros(0, dtype=dtype, requires_grad=True)
    for loss in (
        bradley_terry_loss(empty, empty, centering_coef=0.1),
        bradley_terry_loss(empty, empty, preference=empty, margin=empty, num_pairs=0),
        dpo_loss(empty, empty, empty, empty, beta=0.1),
    ):
        assert (loss.item(), loss.dtype) == (0, dtype)
        torch.autograd.backward(loss)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
@pytest.mark.parametrize("size", [1, 5, 12])
def test_pairs_split_in_any_way_give_the_same_loss_and_gradient(
    size: int, dtype: torch.dtype, tolerance: float
) -> None:
    scores, preference = torch.randn(2, 12, dtype=dtype), torch.rand(12, dtype=dtype)

    def loss_in_pieces(x: Tensor, size: int) -> Tensor:
        total = torch.zeros((), dtype=dtype)
        for start in range(0, 12, size):
            (c, r), p = x[:, start : start + size], preference[start : start + size]
            total += bradley_terry_loss(c, r, preference=p, centering_coef=0.1, num_pairs=12)
            total += dpo_loss(c, r, r.detach(), c.detach(), beta=0.3, num_pairs=12)
        return total

    whole, pieces = loss_in_pieces(scores, 12), loss_in_pieces(scores, size)
    assert (whole - pieces).abs() <= tolerance * whole
    expected = gradient_of(lambda x: loss_in_pieces(x, 12), scores)
    gradient = gradient_of(lambda x: loss_in_pieces(x, size), scores)
    assert (gradient - expected).norm() <= tolerance * expected.norm()


def test_bradley_terry_gradients_are_those_of_the_formula() -> None:
    inputs = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    preference = torch.rand(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda c, r: bradley_terry_loss(c, r, preference=preference, centering_coef=0.1), inputs
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"centering_coef": -0.1}, "centering_coef must be .* 0 or more: got -0.1"),
        ({"centering_coef": NAN}, "centering_coef must be .*: got nan"),
        ({"label_smoothing": -0.1}, "label_smoothing must be from 0 to 0.5: got -0.1"),
        ({"label_smoothing": 0.6}, "label_smoothing must be from 0 to 0.5: got 0.6"),
        ({"preference": vector(0.5, 1.5)}, "preference must be from 0 to 1: .* 0.5 to 1.5"),
        ({"preference": vector(-1, 1)}, "preference must be from 0 to 1: .* -1.0 to 1.0"),
        ({"preference": vector(0.5, NAN)}, "preference must be from 0 to 1"),
    ],
    ids=str,
)
def test_an_illegal_setting_of_bradley_terry_is_named(
    change: dict[str, float | Tensor], line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        bradley_terry_loss(vector(1, 2), vector(3, 4), **change)  # type: ignore[arg-type]


# -- ppo's policy --------------------------------------------------------------------------------


def slow_policy_loss(
    inputs: list[Tensor], mask: Tensor, low: float, high: float, dual_clip: float, num_tokens: int
) -> tuple[float, float, float, float]:
    """Loss, clip fraction, approximate KL and largest ratio, one token after the other."""
    total, clipped_tokens, kl, ratio_max = 0.0, 0, 0.0, 0.0
    for new, old, advantage, weight in zip(*(x[mask].tolist() for x in inputs), strict=True):
        ratio = math.exp(min(max(new - old, -20), 20))
        unclipped = -ratio * advantage
        clipped = -min(max(ratio, 1 - low), 1 + high) * advantage
        loss = max(unclipped, clipped)
        if advantage < 0:
            loss = min(loss, -dual_clip * advantage)
        total += weight * loss
        clipped_tokens += clipped > unclipped
        kl += ratio - 1 - (new - old)
        ratio_max = max(ratio_max, ratio)
    count = int(mask.sum())
    return total / num_tokens, clipped_tokens / count, kl / count, ratio_max


def test_policy_loss_and_statistics_are_the_formula() -> None:
    inputs = list(torch.randn(4, 8, 15, dtype=torch.float64))
    mask = torch.rand(8, 15) < 0.6
    loss, stats = clipped_policy_loss(
        inputs[0],
        inputs[1],
        inputs[2],
        mask,
        clip_range=0.2,
        clip_range_high=0.28,
        dual_clip=3.0,
        weights=inputs[3],
        num_tokens=321,
    )
    expected = slow_policy_loss(inputs, mask, 0.2, 0.28, 3.0, 321)
    assert_close((loss.item(), *(x.item() for x in stats)), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),
        (0.5, 2.0, -1.0, -1.0),
        (0.9, -2.0, 1.8, 1.8),
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 3.0),
    ],
)
def test_the_clip_stops_only_the_move_that_the_advantage_asks_for(
    ratio: float, advantage: float, expected: float, slope: float
) -> None:
    def loss(log_probs: Tensor) -> Tensor:
        return clipped_policy_loss(
            log_probs, row(0), row(advantage), all_real(log_probs), clip_range=0.2, num_tokens=1
        )[0]

    assert_close(loss(row(math.log(ratio))).item(), expected)
    # d ratio / d log π = ratio.
    assert_close(gradient_of(loss, row(math.log(ratio))).item(), slope)


def test_before_the_first_update_the_gradient_is_plain_policy_gradient() -> None:
    log_probs, advantages = torch.randn(2, 3, 4, dtype=torch.float64)
    loss, stats = clipped_policy_loss(
        log_probs,
        log_probs.clone(),
        advantages,
        all_real(log_probs),
        clip_range=0.2,
        num_tokens=12,
    )
    gradient = gradient_of(
        lambda x: clipped_policy_loss(
            x, log_probs, advantages, all_real(x), clip_range=0.2, num_tokens=12
        )[0],
        log_probs,
    )
    assert_close(gradient, -advantages / 12, rtol=1e-15, atol=0)
    assert_close(loss, -advantages.mean())
    assert [x.item() for x in stats] == [0, 0, 1]


def test_the_upper_range_is_the_lower_one_unless_given() -> None:
    new, old, advantages = torch.randn(3, 4, 5).double()
    mask = all_real(new)
    losses = [
        clipped_policy_loss(
            new, old, advantages, mask, clip_range=0.2, clip_range_high=high, num_tokens=20
        )[0].item()
        for high in (None, 0.2, 0.5)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_dual_clip_limits_only_what_negative_advantages_cost() -> None:
    losses = [
        clipped_policy_loss(
            row(math.log(8)),
            row(0),
            row(a),
            all_real(row(0)),
            clip_range=9,
            dual_clip=3,
            num_tokens=1,
        )[0].item()
        for a in (-2.0, 2.0)
    ]
    assert_close(losses, [6.0, -16.0])


def test_statistics_read_neither_weights_nor_the_count_of_the_step() -> None:
    new, old, advantages = torch.randn(3, 4, 5)
    mask = all_real(new)
    _, plain = clipped_policy_loss(new, old, advantages, mask, clip_range=0.2, num_tokens=20)
    _, other = clipped_policy_loss(
        new, old, advantages, mask, clip_range=0.2, num_tokens=7, weights=torch.rand(4, 5)
    )
    assert plain == other


def test_statistics_are_detached() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    _, policy = clipped_policy_loss(
        x, x.detach() + 1, x.detach(), all_real(x), clip_range=0.2, num_tokens=6
    )
    _, value = clipped_value_loss(
        x, x.detach() + 1, x.detach(), all_real(x), clip_range=0.2, num_tokens=6
    )
    assert not any(statistic.requires_grad for statistic in (*policy, *value))


@pytest.mark.parametrize("gap", [-1e3, 1e3])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_an_absurd_ratio_stays_finite_in_float32(gap: float, advantage: float) -> None:
    log_probs = torch.tensor([[gap]], requires_grad=True)
    loss, stats = clipped_policy_loss(
        log_probs,
        torch.zeros(1, 1),
        torch.full((1, 1), advantage),
        torch.ones(1, 1, dtype=torch.bool),
        clip_range=0.2,
        num_tokens=1,
    )
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert all(x.isfinite().all() for x in (loss, gradient, *stats))


def test_approx_kl_estimates_the_divergence_of_the_new_from_the_old_policy() -> None:
    old, new = torch.randn(2, 1, 6, dtype=torch.float64).log_softmax(-1)
    exact = (old.exp() * (old - new)).sum()
    # Every token as often as the old policy draws it, of 20,000.
    counts = (old.exp() * 20_000).round().long().flatten()
    new_drawn, old_drawn = (x.flatten().repeat_interleave(counts)[None] for x in (new, old))
    _, stats = clipped_policy_loss(
        new_drawn,
        old_drawn,
        torch.zeros_like(old_drawn),
        all_real(old_drawn),
        clip_range=0.2,
        num_tokens=1,
    )
    assert_close(stats.approx_kl, exact, rtol=1e-3, atol=0)


def test_policy_gradients_are_those_of_the_formula() -> None:
    log_probs = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    old, advantages, weights = torch.randn(3, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: clipped_policy_loss(
            x,
            old,
            advantages,
            all_real(x),
            clip_range=0.2,
            dual_clip=2.0,
            weights=weights,
            num_tokens=9,
        )[0],
        log_probs,
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"clip_range": 0.0}, "clip_range must be above 0: got 0.0"),
        ({"clip_range": NAN}, "clip_range must be above 0: got nan"),
        ({"clip_range_high": -0.2}, "clip_range_high must be above 0: got -0.2"),
        ({"dual_clip": 1.0}, "dual_clip must be above 1: got 1.0"),
    ],
    ids=str,
)
def test_an_illegal_setting_of_the_policy_loss_is_named(
    change: dict[str, float], line: str
) -> None:
    x = row(1)
    settings = {"clip_range": 0.2} | change
    with pytest.raises(ValueError, match=line):
        clipped_policy_loss(x, x, x, all_real(x), num_tokens=1, **settings)  # type: ignore[arg-type]


# -- ppo's value ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "old", "target", "expected", "slope"),
    [
        (1.1, 1.0, 2.0, 0.81 / 2, -0.9),
        (1.9, 1.0, 2.0, 0.64 / 2, 0.0),
        (0.5, 1.0, 2.0, 2.25 / 2, -1.5),
        (3.5, 1.0, 2.0, 2.25 / 2, 1.5),
    ],
    ids=["inside", "leapt towards the return", "moved away", "leapt beyond the return"],
)
def test_a_value_that_leapt_towards_its_return_gets_no_gradient(
    value: float, old: float, target: float, expected: float, slope: float
) -> None:
    def loss(values: Tensor) -> Tensor:
        return clipped_value_loss(
            values, row(old), row(target), all_real(values), clip_range=0.2, num_tokens=1
        )[0]

    assert_close(loss(row(value)).item(), expected)
    assert_close(gradient_of(loss, row(value)).item(), slope)


def test_value_loss_and_clip_fraction_are_the_formula() -> None:
    values, old_values, returns = torch.randn(3, 8, 15, dtype=torch.float64)
    mask = torch.rand(8, 15) < 0.6
    loss, stats = clipped_value_loss(
        values, old_values, returns, mask, clip_range=0.5, num_tokens=321
    )
    total, clipped_tokens = 0.0, 0
    tokens = (x[mask].tolist() for x in (values, old_values, returns))
    for value, old, target in zip(*tokens, strict=True):
        clipped = (min(max(value, old - 0.5), old + 0.5) - target) ** 2
        total += 0.5 * max((value - target) ** 2, clipped)
        clipped_tokens += clipped > (value - target) ** 2
    assert_close(loss.item(), total / 321, rtol=1e-12, atol=0)
    assert_close(stats.clip_fraction.item(), clipped_tokens / int(mask.sum()))


def test_rounding_inside_the_range_does_not_count_as_clipped() -> None:
    old = torch.randn(50, 50)
    values = old + 0.1 * torch.rand(50, 50)
    _, stats = clipped_value_loss(
        values, old, torch.randn(50, 50), all_real(old), clip_range=0.2, num_tokens=2500
    )
    assert stats.clip_fraction == 0


def test_an_infinite_range_is_the_plain_squared_error() -> None:
    values, old_values, returns = torch.randn(3, 4, 5, dtype=torch.float64)
    loss, stats = clipped_value_loss(
        values, old_values, returns, all_real(values), clip_range=math.inf, num_tokens=20
    )
    assert_close(loss, 0.5 * (values - returns).square().mean())
    assert stats.clip_fraction == 0


def test_value_gradients_are_those_of_the_formula() -> None:
    values = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    old, returns = torch.randn(2, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: clipped_value_loss(x, old, returns, all_real(x), clip_range=0.5, num_tokens=9)[0],
        values,
    )


@pytest.mark.parametrize("clip_range", [0.0, -1.0, NAN])
def test_an_illegal_value_clip_range_is_named(clip_range: float) -> None:
    x = row(1)
    with pytest.raises(ValueError, match=f"clip_range must be above 0: got {clip_range}"):
        clipped_value_loss(x, x, x, all_real(x), clip_range=clip_range, num_tokens=1)


# -- dpo -----------------------------------------------------------------------------------------


def test_dpo_by_hand() -> None:
    # Implied scores 0.5 · (−10 + 12) and 0.5 · (−9 + 8): a lead of 1.5.
    loss = dpo_loss(vector(-10), vector(-9), vector(-12), vector(-8), beta=0.5)
    assert_close(loss.item(), math.log1p(math.exp(-1.5)))


def test_dpo_with_smoothed_labels_by_hand() -> None:
    loss = dpo_loss(vector(-10), vector(-9), vector(-12), vector(-8), beta=0.5, label_smoothing=0.1)
    assert_close(loss.item(), 0.9 * math.log1p(math.exp(-1.5)) + 0.1 * math.log1p(math.exp(1.5)))


def test_a_policy_that_is_its_reference_pays_log_two_and_is_pushed_apart() -> None:
    chosen, rejected = torch.randn(2, 5, dtype=torch.float64)
    loss = dpo_loss(chosen, rejected, chosen, rejected, beta=0.1)
    assert_close(loss.item(), math.log(2))
    gradient = gradient_of(lambda x: dpo_loss(x, rejected, chosen, rejected, beta=0.1), chosen)
    assert_close(gradient, torch.full((5,), -0.1 / 2 / 5).double())


def test_dpo_of_log_probs_of_long_responses_stays_finite_in_float32() -> None:
    chosen = torch.tensor([-1e6, 0.0])
    gradient = gradient_of(
        lambda x: dpo_loss(x, x.detach().flip(0), torch.zeros(2), torch.zeros(2), beta=1.0), chosen
    )
    assert gradient.tolist() == [-0.5, 0]


def test_dpo_gradients_are_those_of_the_formula() -> None:
    inputs = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(
        lambda *x: dpo_loss(*x, beta=0.7, label_smoothing=0.1, num_pairs=5), inputs
    )


@pytest.mark.parametrize("beta", [0.0, -0.1, NAN, math.inf])
def test_an_illegal_beta_is_named(beta: float) -> None:
    x = vector(1)
    with pytest.raises(ValueError, match=f"beta must be a finite number above 0: got {beta}"):
        dpo_loss(x, x, x, x, beta=beta)
