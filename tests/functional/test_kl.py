import math
from typing import Literal, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.functional.kl import adapt_kl_coef, kl_estimate

Estimator = Literal["k1", "k2", "k3"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


@pytest.mark.parametrize(
    ("estimator", "expected"), [("k1", math.log(2)), ("k2", math.log(2) ** 2 / 2)]
)
def test_k1_and_k2_by_hand(estimator: Estimator, expected: float) -> None:
    estimate = kl_estimate(row(math.log(0.5)), row(math.log(0.25)), estimator=estimator)
    assert_close(estimate, row(expected))


def test_k3_by_hand() -> None:
    estimate = kl_estimate(row(math.log(0.5)), row(math.log(0.25)), estimator="k3")
    assert_close(estimate, row(0.5 - 1 + math.log(2)))


def test_the_default_is_k1() -> None:
    log_probs, ref_log_probs = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(kl_estimate(log_probs, ref_log_probs), log_probs - ref_log_probs)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_policies_are_exactly_zero_apart(estimator: Estimator) -> None:
    log_probs = torch.randn(3, 4)
    assert (kl_estimate(log_probs, log_probs.clone(), estimator=estimator) == 0).all()


def divergence(policy: Tensor, reference: Tensor) -> Tensor:
    return (policy.exp() * (policy - reference)).sum()


def policy_and_reference() -> tuple[Tensor, Tensor]:
    """Logits of one distribution over a vocabulary, and log-probs of another."""
    logits = torch.randn(1, 9, dtype=torch.float64, requires_grad=True)
    return logits, torch.randn(1, 9, dtype=torch.float64).log_softmax(-1)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator: Estimator) -> None:
    logits, reference = policy_and_reference()
    policy = logits.log_softmax(-1)
    exact = divergence(policy, reference)
    estimates = kl_estimate(policy, reference, estimator=estimator)
    assert_close((policy.exp() * estimates).sum(), exact)


def test_only_k1_in_the_reward_has_the_gradient_of_the_kl() -> None:
    logits, reference = policy_and_reference()
    policy = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad(divergence(policy, reference), logits, retain_graph=True)
    for estimator in ESTIMATORS:
        rewards = kl_estimate(policy, reference, estimator=estimator).detach()
        surrogate = (policy.detach().exp() * policy * rewards).sum()
        (gradient,) = torch.autograd.grad(surrogate, logits, retain_graph=True)
        assert torch.allclose(gradient, exact, rtol=1e-9) == (estimator == "k1")


def test_only_k2_as_a_loss_has_the_gradient_of_the_kl() -> None:
    logits, reference = policy_and_reference()
    policy = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad(divergence(policy, reference), logits, retain_graph=True)
    for estimator in ESTIMATORS:
        estimates = kl_estimate(policy, reference, estimator=estimator)
        loss = (policy.detach().exp() * estimates).sum()
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert torch.allclose(gradient, exact, rtol=1e-9) == (estimator == "k2")


@given(st.floats(-60, 0), st.floats(-60, 0))
def test_k2_and_k3_are_never_negative(log_prob: float, ref_log_prob: float) -> None:
    assert kl_estimate(row(log_prob), row(ref_log_prob), estimator="k2") >= 0
    # An ulp of the log-ratio may be lost.
    slack = 1e-15 * abs(log_prob - ref_log_prob)
    assert kl_estimate(row(log_prob), row(ref_log_prob), estimator="k3") >= -slack


@pytest.mark.parametrize("gap", [1e-2, 1e-3, -1e-3])
def test_k3_keeps_its_digits_in_float32_where_the_policies_nearly_agree(gap: float) -> None:
    estimate = kl_estimate(torch.tensor([[gap]]), torch.zeros(1, 1), estimator="k3")
    assert_close(estimate.item(), math.expm1(-gap) + gap, rtol=1e-3, atol=0)


def test_k3_shows_an_absurd_gap_instead_of_clamping_it() -> None:
    gap = torch.tensor([[-30.0, -100.0, 100.0]])
    estimate = kl_estimate(gap, torch.zeros(1, 3), estimator="k3")
    assert_close(estimate, torch.tensor([[math.exp(30) - 31, math.inf, 99.0]]))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_are_those_of_the_formula(estimator: Estimator) -> None:
    inputs = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: kl_estimate(a, b, estimator=estimator), inputs)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.05),
        (6.6, 0.05 * 1.001),
        (5.4, 0.05 * 0.999),
        (60.0, 0.05 * 1.002),
        (-9, 0.05 * 0.998),
    ],
    ids=["on target", "10 % above", "10 % below", "far above", "below zero"],
)
def test_the_coefficient_moves_by_the_clipped_relative_error(kl: float, expected: float) -> None:
    adapted = adapt_kl_coef(0.05, kl, target=6.0, horizon=10_000, num_samples=100)
    assert isinstance(adapted, float)
    assert_close(adapted, expected)


def test_a_kl_that_falls_with_the_coefficient_settles_on_the_target() -> None:
    kl_coef = 0.05
    for _ in range(2000):
        kl_coef = adapt_kl_coef(kl_coef, 1 / kl_coef, target=6, horizon=1000, num_samples=64)
    assert_close(1 / kl_coef, 6.0, rtol=1e-6, atol=0)


def test_the_coefficient_is_always_a_float() -> None:
    assert isinstance(adapt_kl_coef(0, 6, target=6, horizon=10, num_samples=1), float)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"kl_coef": -0.1}, "kl_coef must be a finite number, 0 or more: got -0.1"),
        ({"kl_coef": math.nan}, "kl_coef must be"),
        ({"kl": math.nan}, "kl must be finite: got nan"),
        ({"kl": math.inf}, "kl must be finite: got inf"),
        ({"target": 0.0}, "target and horizon must be finite and above 0: got 0.0 and 100"),
        ({"horizon": -1}, "target and horizon must be finite and above 0: got 6.0 and -1"),
        ({"num_samples": -1}, "num_samples must be from 0 to 5 horizons"),
        ({"num_samples": 501}, "got 501 with a horizon of 100"),
    ],
    ids=str,
)
def test_an_illegal_setting_is_named(change: dict[str, float], line: str) -> None:
    arguments = {"kl_coef": 0.05, "kl": 6.0, "target": 6.0, "horizon": 100, "num_samples": 8}
    with pytest.raises(ValueError, match=line):
        adapt_kl_coef(**(arguments | change))  # type: ignore[arg-type]
