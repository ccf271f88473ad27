import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.functional.losses import dpo_loss
from rlhf_forge.functional.preference_losses import ipo_loss, robust_dpo_loss

NAN = math.nan
LOSSES: dict[str, Callable[..., Tensor]] = {
    "ipo": partial(ipo_loss, beta=0.7),
    "robust": partial(robust_dpo_loss, beta=0.7, label_smoothing=0.1),
}
both = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
# Leads in the log-ratio of 2 − (−1) = 3 nats.
SIDES = (-10.0, -9.0, -12.0, -8.0)


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def pair(*sides: float) -> list[Tensor]:
    return [vector(side) for side in sides]


def gradient_of(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    leaf = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf)
    return gradient


# -- both ----------------------------------------------------------------------------------------


@both
def test_no_pairs_cost_nothing(loss: Callable[..., Tensor]) -> None:
    nothing = vector()
    assert loss(nothing, nothing, nothing, nothing) == 0
    assert loss(nothing, nothing, nothing, nothing, num_pairs=0) == 0


@both
def test_pieces_of_a_step_add_up_to_the_whole(loss: Callable[..., Tensor]) -> None:
    sides = torch.randn(4, 9, dtype=torch.float64)
    pieces = [loss(*sides[:, a:b], num_pairs=9) for a, b in ((0, 1), (1, 6), (6, 9))]
    assert_close(torch.stack(pieces).sum(), loss(*sides), rtol=1e-12, atol=0)


@both
def test_what_a_prompt_adds_to_both_sides_cancels(loss: Callable[..., Tensor]) -> None:
    chosen, rejected, ref_chosen, ref_rejected = torch.randn(4, 9, dtype=torch.float64)
    moved = loss(chosen + 3, rejected + 3, ref_chosen + 1, ref_rejected + 1)
    assert_close(moved, loss(chosen, rejected, ref_chosen, ref_rejected))


@both
def test_gradients_are_those_of_the_formula(loss: Callable[..., Tensor]) -> None:
    inputs = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, num_pairs=5), inputs)


@both
def test_a_number_that_is_none_is_not_hidden(loss: Callable[..., Tensor]) -> None:
    for place in range(4):
        sides = [vector(-1.0, -2.0) for _ in range(4)]
        sides[place][1] = NAN
        assert loss(*sides).isnan()


@both
def test_log_probs_of_long_responses_stay_finite_in_float32(loss: Callable[..., Tensor]) -> None:
    chosen = torch.tensor([-1e6, 0.0])
    zeros = torch.zeros(2)
    assert loss(chosen, chosen.flip(0), zeros, zeros).isfinite()
    gradient = gradient_of(lambda x: loss(x, x.detach().flip(0), zeros, zeros), chosen)
    assert gradient.isfinite().all()


@both
def test_precision_is_that_of_the_input(loss: Callable[..., Tensor]) -> None:
    for dtype in (torch.float32, torch.float64):
        assert loss(*torch.randn(4, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("beta", [0.0, -0.1, NAN, math.inf])
def test_an_illegal_beta_is_named(beta: float) -> None:
    sides = pair(*SIDES)
    with pytest.raises(ValueError, match=f"beta must be a finite number above 0: got {beta}"):
        ipo_loss(*sides, beta=beta)
    with pytest.raises(ValueError, match=f"beta must be a finite number above 0: got {beta}"):
        robust_dpo_loss(*sides, beta=beta, label_smoothing=0.1)


@both
def test_a_negative_count_is_named(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"num_pairs must be 0 or more, .*: got -1"):
        loss(*pair(*SIDES), num_pairs=-1)


# -- ipo -----------------------------------------------------------------------------------------


def test_ipo_by_hand() -> None:
    assert_close(ipo_loss(*pair(*SIDES), beta=0.25).item(), (3 - 2.0) ** 2)


def test_a_policy_that_is_its_reference_pays_the_square_of_its_target() -> None:
    chosen, rejected = torch.randn(2, 5, dtype=torch.float64)
    loss = ipo_loss(chosen, rejected, chosen, rejected, beta=0.1)
    assert_close(loss.item(), 25.0)
    gradient = gradient_of(lambda x: ipo_loss(x, rejected, chosen, rejected, beta=0.1), chosen)
    assert_close(gradient, torch.full((5,), -2 * 5.0 / 5).double())


def test_ipo_is_free_at_its_target_and_pulls_back_from_beyond() -> None:
    def loss(lead: Tensor) -> Tensor:
        return ipo_loss(lead, vector(0), vector(0), vector(0), beta=0.5)

    assert loss(vector(1.0)) == 0
    assert gradient_of(loss, vector(1.0)) == 0
    assert gradient_of(loss, vector(0.9)) < 0
    assert gradient_of(loss, vector(1.1)) > 0


@pytest.mark.parametrize("wins", [0.5, 0.75, 1.0])
def test_ipo_settles_where_the_share_of_wins_says(wins: float) -> None:
    beta, zero = 0.25, vector(0)

    def expected(lead: Tensor) -> Tensor:
        as_labelled = ipo_loss(lead, zero, zero, zero, beta=beta)
        return wins * as_labelled + (1 - wins) * ipo_loss(zero, lead, zero, zero, beta=beta)

    at = vector((2 * wins - 1) / (2 * beta))
    assert_close(gradient_of(expected, at), vector(0))


# -- robust --------------------------------------------------------------------------------------


def test_robust_dpo_by_hand() -> None:
    right, wrong = math.log1p(math.exp(-1.5)), math.log1p(math.exp(1.5))
    loss = robust_dpo_loss(*pair(*SIDES), beta=0.5, label_smoothing=0.1)
    assert_close(loss.item(), (0.9 * right - 0.1 * wrong) / 0.8)


def test_without_noise_robust_dpo_is_dpo() -> None:
    sides = torch.randn(4, 9, dtype=torch.float64)
    loss = robust_dpo_loss(*sides, beta=0.3, label_smoothing=0)
    assert_close(loss, dpo_loss(*sides, beta=0.3), rtol=0, atol=0)


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.49])
def test_over_flipped_labels_robust_dpo_expects_the_loss_of_the_right_ones(noise: float) -> None:
    chosen, rejected, ref_chosen, ref_rejected = torch.randn(4, 9, dtype=torch.float64)
    as_labelled = robust_dpo_loss(
        chosen, rejected, ref_chosen, ref_rejected, beta=0.3, label_smoothing=noise
    )
    flipped = robust_dpo_loss(
        rejected, chosen, ref_rejected, ref_chosen, beta=0.3, label_smoothing=noise
    )
    right = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.3)
    assert_close((1 - noise) * as_labelled + noise * flipped, right, rtol=1e-10, atol=0)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4])
def test_a_policy_that_is_its_reference_pays_log_two_whatever_the_noise(noise: float) -> None:
    chosen, rejected = torch.randn(2, 5, dtype=torch.float64)
    loss = robust_dpo_loss(chosen, rejected, chosen, rejected, beta=0.1, label_smoothing=noise)
    assert_close(loss.item(), math.log(2))


def test_robust_dpo_never_stops_asking_for_a_larger_lead() -> None:
    def loss(lead: Tensor) -> Tensor:
        zero = vector(0)
        return robust_dpo_loss(lead, zero, zero, zero, beta=1, label_smoothing=0.2)

    assert loss(vector(40.0)) < 0
    assert_close(gradient_of(loss, vector(40.0)).item(), -0.2 / 0.6)


@pytest.mark.parametrize("noise", [-0.1, 0.5, 1.0, NAN])
def test_an_illegal_share_of_wrong_labels_is_named(noise: float) -> None:
    with pytest.raises(
        ValueError, match=f"label_smoothing must be from 0 to below 0.5: got {noise}"
    ):
        robust_dpo_loss(*pair(*SIDES), beta=1, label_smoothing=noise)
