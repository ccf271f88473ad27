import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.functional.advantages import (
    explained_variance,
    generalized_advantage_estimation,
    group_relative_advantages,
    missing_eos_scores,
    rloo_advantages,
    token_rewards,
)

NAN = math.nan


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def marks(line: str) -> Tensor:
    return torch.tensor([[mark == "x" for mark in line]], dtype=torch.bool)


def random_mask(batch: int = 6, response: int = 9) -> Tensor:
    return torch.rand(batch, response) < torch.rand(batch, 1)


# -- scores and rewards --------------------------------------------------------------------------


def test_a_response_without_eos_scores_minus_the_penalty() -> None:
    scores = missing_eos_scores(
        vector(5, -7, NAN, 2), torch.tensor([True, True, False, False]), penalty=1.5
    )
    assert_close(scores, vector(5, -7, -1.5, -1.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_missing_eos_scores_keep_dtype_and_gradient(dtype: torch.dtype) -> None:
    scores = torch.tensor([1.0, NAN], dtype=dtype, requires_grad=True)
    replaced = missing_eos_scores(scores, torch.tensor([True, False]), penalty=1)
    (gradient,) = torch.autograd.grad(replaced.sum(), scores)
    assert replaced.dtype == dtype
    assert gradient.tolist() == [1, 0]


@pytest.mark.parametrize("penalty", [-1.0, NAN, math.inf])
def test_an_illegal_penalty_is_named(penalty: float) -> None:
    with pytest.raises(ValueError, match=f"penalty must be .* 0 or more: got {penalty}"):
        missing_eos_scores(vector(1), torch.tensor([True]), penalty=penalty)


def test_token_rewards_by_hand() -> None:
    rewards = token_rewards(vector(10), row(1, -2, 3, NAN), marks("xxx."), kl_coef=0.5)
    assert_close(rewards, row(-0.5, 1, 10 - 1.5, 0))


@pytest.mark.parametrize(
    ("line", "position"), [("xxxx", 3), ("xx..", 1), ("..x.", 2), ("x.x.", 2), ("x...", 0)]
)
def test_the_score_sits_on_the_last_real_token(line: str, position: int) -> None:
    rewards = token_rewards(vector(7), torch.zeros(1, 4).double(), marks(line), kl_coef=0.1)
    assert rewards.nonzero().tolist() == [[0, position]]
    assert rewards[0, position] == 7


def test_rewards_of_a_response_add_up_to_its_score_less_its_penalty() -> None:
    mask, kl, scores = random_mask(), torch.randn(6, 9).double(), torch.randn(6).double()
    rewards = token_rewards(scores, kl, mask, kl_coef=0.3)
    expected = scores * mask.any(1) - 0.3 * torch.where(mask, kl, 0).sum(1)
    assert_close(rewards.sum(1), expected)


def test_the_score_of_an_empty_row_is_never_read() -> None:
    scores = torch.tensor([NAN, 1.0], requires_grad=True)
    mask = torch.tensor([[False, False], [True, False]])
    rewards = token_rewards(scores, torch.zeros(2, 2), mask, kl_coef=1)
    (gradient,) = torch.autograd.grad(rewards.sum(), scores)
    assert rewards.tolist() == [[0, 0], [1, 0]]
    assert gradient.tolist() == [0, 1]


@pytest.mark.parametrize("kl_coef", [-0.1, NAN, math.inf])
def test_an_illegal_kl_coef_is_named(kl_coef: float) -> None:
    with pytest.raises(ValueError, match=f"kl_coef must be .* 0 or more: got {kl_coef}"):
        token_rewards(vector(1), row(0), marks("x"), kl_coef=kl_coef)


# -- generalized advantage estimation ------------------------------------------------------------


def slow_gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """The definition: a discounted sum of all later TD errors, over real tokens only."""
    advantages, returns = torch.zeros_like(rewards), torch.zeros_like(rewards)
    for b in range(len(mask)):
        real = [t for t in range(mask.shape[1]) if mask[b, t]]
        deltas = []
        for k, t in enumerate(real):
            next_value = values[b, real[k + 1]] if k + 1 < len(real) else 0.0
            deltas.append(rewards[b, t] + gamma * next_value - values[b, t])
        for k, t in enumerate(real):
            for later in range(k, len(real)):
                advantages[b, t] += (gamma * gae_lambda) ** (later - k) * deltas[later]
            returns[b, t] = advantages[b, t] + values[b, t]
    return advantages, returns


def test_gae_by_hand() -> None:
    advantages, returns = generalized_advantage_estimation(
        row(0, 0, 1), row(0.5, 0.25, 0.75), marks("xxx"), gamma=1, gae_lambda=0.5
    )
    # TD errors: -0.25, 0.5, 0.25.
    assert_close(advantages, row(-0.25 + 0.25 + 0.0625, 0.5 + 0.125, 0.25))
    assert_close(returns, row(0.5625, 0.875, 1.0))


@given(st.integers(0, 4), st.integers(0, 7), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_gae_is_the_discounted_sum_of_td_errors(
    batch: int, response: int, gamma: float, gae_lambda: float, seed: int
) -> None:
    torch.manual_seed(seed)
    rewards, values = torch.randn(2, batch, response, dtype=torch.float64)
    mask = random_mask(batch, response)
    estimates = generalized_advantage_estimation(
        rewards, values, mask, gamma=gamma, gae_lambda=gae_lambda
    )
    assert_close(estimates, slow_gae(rewards, values, mask, gamma, gae_lambda))


def test_lambda_zero_is_the_one_step_td_error() -> None:
    rewards, values = torch.randn(2, 3, 5, dtype=torch.float64)
    mask = torch.ones(3, 5, dtype=torch.bool)
    advantages, _ = generalized_advantage_estimation(rewards, values, mask, gamma=0.9, gae_lambda=0)
    next_values = torch.nn.functional.pad(values[:, 1:], (0, 1))
    assert_close(advantages, rewards + 0.9 * next_values - values)


def test_lambda_one_makes_returns_the_rewards_to_come() -> None:
    mask, (rewards, values) = random_mask(), torch.randn(2, 6, 9, dtype=torch.float64)
    _, returns = generalized_advantage_estimation(rewards, values, mask, gamma=1, gae_lambda=1)
    to_come = torch.where(mask, rewards, 0).flip(1).cumsum(1).flip(1)
    assert_close(returns, torch.where(mask, to_come, 0))


def test_gamma_zero_sees_only_the_present_reward() -> None:
    mask, (rewards, values) = random_mask(), torch.randn(2, 6, 9, dtype=torch.float64)
    _, returns = generalized_advantage_estimation(rewards, values, mask, gamma=0, gae_lambda=0.9)
    assert_close(returns, torch.where(mask, rewards, 0))


@pytest.mark.parametrize("gae_lambda", [0, 0.5, 1])
def test_a_critic_that_knows_the_return_leaves_no_advantage(gae_lambda: float) -> None:
    mask, rewards = random_mask(), torch.randn(6, 9, dtype=torch.float64)
    values = torch.where(mask, rewards, 0).flip(1).cumsum(1).flip(1)
    advantages, _ = generalized_advantage_estimation(
        rewards, values, mask, gamma=1, gae_lambda=gae_lambda
    )
    assert_close(advantages, torch.zeros(6, 9).double())


def test_gae_is_linear_in_rewards_and_values() -> None:
    mask, (rewards, values) = random_mask(), torch.randn(2, 6, 9, dtype=torch.float64)
    once = generalized_advantage_estimation(rewards, values, mask, gamma=0.9, gae_lambda=0.8)
    twice = generalized_advantage_estimation(
        2 * rewards, 2 * values, mask, gamma=0.9, gae_lambda=0.8
    )
    assert_close(twice, tuple(2 * x for x in once))


def test_gae_gradients_are_those_of_the_formula() -> None:
    mask = random_mask(2, 4)
    inputs = [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda r, v: generalized_advantage_estimation(r, v, mask, gamma=0.9, gae_lambda=0.8), inputs
    )


@pytest.mark.parametrize("number", [-0.1, 1.1, NAN])
@pytest.mark.parametrize("name", ["gamma", "gae_lambda"])
def test_an_illegal_discount_is_named(name: str, number: float) -> None:
    discounts = {"gamma": 1.0, "gae_lambda": 0.95} | {name: number}
    with pytest.raises(ValueError, match=f"{name} must be from 0 to 1: got {number}"):
        generalized_advantage_estimation(row(0), row(0), marks("x"), **discounts)


# -- explained variance --------------------------------------------------------------------------


def test_explained_variance_by_hand() -> None:
    # Residuals 0, 0, 2 of returns 1, 2, 3: variances 4/3 and 1.
    share = explained_variance(row(1, 2, 1, NAN), row(1, 2, 3, NAN), marks("xxx."))
    assert_close(share.item(), 1 - 4 / 3)


def test_a_perfect_critic_explains_everything_and_a_constant_one_nothing() -> None:
    mask, returns = random_mask(), torch.randn(6, 9, dtype=torch.float64)
    assert explained_variance(returns, returns, mask) == 1
    assert_close(explained_variance(torch.full_like(returns, 3), returns, mask).item(), 0.0)


def test_an_offset_of_the_critic_is_not_found_out() -> None:
    mask, returns = random_mask(), torch.randn(6, 9, dtype=torch.float64)
    assert_close(explained_variance(returns + 5, returns, mask).item(), 1.0)


@pytest.mark.parametrize("line", ["xxx", "x..", "..."])
def test_returns_that_do_not_vary_give_zero(line: str) -> None:
    returns = torch.full((1, 3), 0.1)
    assert explained_variance(torch.randn(1, 3), returns, marks(line)) == 0


# -- groups --------------------------------------------------------------------------------------


def groups_of(group_ids: list[int], index: int) -> list[int]:
    return [i for i, group in enumerate(group_ids) if group == group_ids[index]]


def slow_rloo(rewards: list[float], group_ids: list[int]) -> list[float]:
    advantages = []
    for i, reward in enumerate(rewards):
        others = [rewards[j] for j in groups_of(group_ids, i) if j != i]
        advantages.append(reward - statistics.mean(others) if others else 0.0)
    return advantages


def slow_group_relative(rewards: list[float], group_ids: list[int], scale: bool) -> list[float]:
    advantages = []
    for i, reward in enumerate(rewards):
        group = [rewards[j] for j in groups_of(group_ids, i)]
        lead = reward - statistics.mean(group)
        spread = statistics.stdev(group) + 1e-4 if len(group) > 1 else 1.0
        advantages.append(lead / spread if scale else lead)
    return advantages


# A few groups in any order, with negative and large ids.
GROUPS = st.lists(
    st.tuples(
        st.integers(-2, 2).map(lambda i: i * 10**9), st.integers(-50, 50).map(lambda i: i / 7)
    ),
    max_size=9,
)


@given(GROUPS)
def test_rloo_is_the_lead_over_the_mean_of_the_others(pairs: list[tuple[int, float]]) -> None:
    ids, rewards = [group for group, _ in pairs], [reward for _, reward in pairs]
    advantages = rloo_advantages(vector(*rewards), torch.tensor(ids, dtype=torch.int64))
    assert_close(advantages, vector(*slow_rloo(rewards, ids)))


@given(GROUPS, st.booleans())
def test_group_relative_is_the_lead_over_the_mean_of_the_group(
    pairs: list[tuple[int, float]], scale: bool
) -> None:
    ids, rewards = [group for group, _ in pairs], [reward for _, reward in pairs]
    advantages = group_relative_advantages(
        vector(*rewards), torch.tensor(ids, dtype=torch.int64), scale_by_std=scale
    )
    assert_close(advantages, vector(*slow_group_relative(rewards, ids, scale)))


def test_group_advantages_by_hand() -> None:
    rewards, ids = vector(1, 10, 3, 20, 5), torch.tensor([7, 2, 7, 2, 7])
    assert_close(rloo_advantages(rewards, ids), vector(-3, -10, 0, 10, 3))
    plain = group_relative_advantages(rewards, ids, scale_by_std=False)
    assert_close(plain, vector(-2, -5, 0, 5, 2))
    scaled = group_relative_advantages(rewards, ids, scale_by_std=True)
    assert_close(scaled, plain / (vector(2, 50**0.5, 2, 50**0.5, 2) + 1e-4))


def test_the_constant_beside_the_spread_tames_groups_that_hardly_vary() -> None:
    advantages = group_relative_advantages(
        vector(-1e-4, 0, 1e-4), torch.tensor([0, 0, 0]), scale_by_std=True
    )
    assert_close(advantages, vector(-0.5, 0, 0.5))


def all_estimators(rewards: Tensor, group_ids: Tensor) -> list[Tensor]:
    return [
        rloo_advantages(rewards, group_ids),
        group_relative_advantages(rewards, group_ids, scale_by_std=False),
        group_relative_advantages(rewards, group_ids, scale_by_std=True),
    ]


def test_a_group_of_one_or_of_equals_has_exactly_zero_advantage() -> None:
    # 0.1 seven times: its float32 mean is not 0.1.
    rewards, group_ids = torch.tensor([0.1] * 7 + [-42.0]), torch.tensor([0] * 7 + [1])
    for advantages in all_estimators(rewards, group_ids):
        assert (advantages == 0).all()


def test_advantages_of_a_group_add_up_to_zero() -> None:
    rewards, group_ids = torch.randn(12, dtype=torch.float64), torch.arange(12) % 3
    for advantages in all_estimators(rewards, group_ids):
        for group in range(3):
            assert abs(advantages[group_ids == group].sum()) < 1e-12


def test_the_order_of_responses_does_not_matter() -> None:
    rewards, group_ids = torch.randn(12, dtype=torch.float64), torch.randint(4, (12,))
    order = torch.randperm(12)
    straight = all_estimators(rewards, group_ids)
    permuted = all_estimators(rewards[order], group_ids[order])
    assert_close(permuted, [advantages[order] for advantages in straight])


def test_nothing_leaks_from_one_group_into_another() -> None:
    rewards, group_ids = torch.tensor([1.0, 2.0, NAN, 3.0]), torch.tensor([0, 0, 1, 1])
    for advantages in all_estimators(rewards, group_ids):
        assert advantages[:2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_group_advantages_keep_shape_and_dtype(batch: int, dtype: torch.dtype) -> None:
    for advantages in all_estimators(torch.randn(batch, dtype=dtype), torch.arange(batch) // 2):
        assert (advantages.shape, advantages.dtype) == ((batch,), dtype)
