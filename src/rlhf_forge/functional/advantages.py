"""From scores to what each token gained over what was expected of it.

``mask`` is True on response tokens; holes are legal and skipped; what stands outside is never read.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def missing_eos_scores(
    scores: Float[Tensor, "batch"], has_eos: Bool[Tensor, "batch"], *, penalty: float
) -> Float[Tensor, "batch"]:
    """Replace the score of every response that did not end by itself by ``-penalty``.

    The reward model never saw an unfinished text end; its opinion of one means nothing. Replacing
    needs centred scores: where a typical score is -5, a -1 would be a bonus for never stopping.

    Args:
        scores: Normalised (and clipped) reward-model scores; never read where ``has_eos`` is False.
        has_eos: True where the response ends with an end-of-sequence token.
        penalty: In score units, usually 1.

    Source: Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, section 3.1.1.
    """
    return torch.where(has_eos, scores, -penalty)


def token_rewards(
    scores: Float[Tensor, "batch"],
    kl: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    kl_coef: float,
) -> Float[Tensor, "batch time"]:
    """Reward of each token: the KL price everywhere, the score on the last real token.

        r_t = −kl_coef · kl_t + [t is last] · score

    Args:
        scores: Of each whole response, in score units.
        kl: k1 estimate at each token, in nats.
        mask: True on response tokens; a row without any gets no reward at all.
        kl_coef: Price of a nat, in score units.

    Returns:
        Rewards in score units, 0 outside the mask.

    Source: Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 2; score on the
    end-of-sequence token itself, so that no state after the end needs a value.
    """
    penalty = torch.where(mask, -kl_coef * torch.where(mask, kl, 0.0), 0.0)
    # The last real token is the one after which no real token comes.
    remaining = mask.flip(-1).cumsum(-1).flip(-1)
    last = mask & (remaining == 1)
    return torch.where(last, penalty + scores.unsqueeze(-1), penalty)


def generalized_advantage_estimation(
    rewards: Float[Tensor, "batch time"],
    values: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """Estimate the advantage and the return of every response token.

    Each row is walked from its last real token to its first, holes skipped:

        δ_t = r_t + γ V_{t+1} − V_t
        A_t = δ_t + γ λ A_{t+1}

    with V and A of what follows the last real token 0. Every response counts as a finished
    episode, whether it ended by itself or at the length limit: nothing is bootstrapped.

    Args:
        rewards: For emitting token t, KL price included, in score units.
        values: Critic's estimate, just before token t, of the return to come.
        mask: True on response tokens.
        gamma: Discount per token, in [0, 1].
        gae_lambda: From 0 (one-step: low variance) to 1 (Monte Carlo: no bias).

    Returns:
        ``advantages``, not whitened, and ``returns = advantages + values``; both 0 outside.

    Raises:
        ValueError: If ``gamma`` or ``gae_lambda`` is outside [0, 1].

    Source: Schulman et al. 2016, https://arxiv.org/abs/1506.02438, eq. 16.
    """
    if not (0 <= gamma <= 1 and 0 <= gae_lambda <= 1):
        raise ValueError(f"gamma and gae_lambda must be in [0, 1], got {gamma} and {gae_lambda}")
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = rewards.new_zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * gae_lambda * next_advantage
        real = mask[:, t]
        advantages[:, t] = torch.where(real, advantage, 0.0)
        next_value = torch.where(real, values[:, t], next_value)
        next_advantage = torch.where(real, advantage, next_advantage)
    return advantages, advantages + values


def explained_variance(
    values: Float[Tensor, "batch time"],
    returns: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    """Share of the returns' variance that the critic foresaw: ``1 − Var(R − V) / Var(R)``.

    Args:
        values: Critic's estimates.
        returns: What came.
        mask: True on response tokens.

    Returns:
        1 is perfect, 0 no better than a constant, negative worse; 0 if the returns do not vary.
    """
    real_returns = torch.where(mask, returns, 0.0)
    missed = _biased_var(real_returns - torch.where(mask, values, 0.0), mask)
    total = _biased_var(real_returns, mask)
    return torch.where(total > 0, 1 - missed / torch.where(total > 0, total, 1.0), 0.0)


def rloo_advantages(
    sequence_rewards: Float[Tensor, "batch"], group_ids: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """Each response against the mean of the *other* responses to its prompt.

        A_i = R_i − mean of R_j over j ≠ i in the group

    Args:
        sequence_rewards: Score less KL price of each whole response, in score units.
        group_ids: Equal for responses to one prompt; in any order.

    Returns:
        Advantages in score units; 0 in a group of one, which has nothing to compare with.

    Source: Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740, section 4.
    """
    group, count = _groups(group_ids)
    size = count[group].to(sequence_rewards.dtype)
    centred = sequence_rewards - _group_mean(sequence_rewards, group, count)
    # R - mean of others = (R - mean of all) n / (n - 1)
    return torch.where(size > 1, centred * size / (size - 1).clamp_min(1), 0.0)


def group_relative_advantages(
    sequence_rewards: Float[Tensor, "batch"],
    group_ids: Int[Tensor, "batch"],
    *,
    scale_by_std: bool,
) -> Float[Tensor, "batch"]:
    """Each response against the mean of its group, as GRPO does.

        A_i = (R_i − mean) / (std + 1e-4)        std unbiased

    Args:
        sequence_rewards: Of each whole response, in score units.
        group_ids: Equal for responses to one prompt; in any order.
        scale_by_std: Divide by the group's std (GRPO), or not (Dr. GRPO: no bias towards prompts
            on which all answers score alike).

    Returns:
        Advantages; 0 in a group of one or of equals.

    Source: Shao et al. 2024, https://arxiv.org/abs/2402.03300, section 4.1; Liu et al. 2025,
    https://arxiv.org/abs/2503.20783.
    """
    group, count = _groups(group_ids)
    centred = sequence_rewards - _group_mean(sequence_rewards, group, count)
    squares = torch.zeros_like(count, dtype=centred.dtype).index_add(0, group, centred.square())
    std = (squares / (count - 1).clamp_min(1)).sqrt()
    if scale_by_std:
        centred = centred / (std[group] + 1e-4)
    # Rounding of the mean leaves equals a hair off zero, which the division would blow up.
    return torch.where(_all_equal(sequence_rewards, group, count)[group], 0.0, centred)


def _groups(group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Number of each entry's group, from 0 on, and each group's size."""
    _, group, count = group_ids.unique(return_inverse=True, return_counts=True)
    return group, count


def _group_mean(values: Tensor, group: Tensor, count: Tensor) -> Tensor:
    sums = torch.zeros_like(count, dtype=values.dtype).index_add(0, group, values)
    return (sums / count)[group]


def _all_equal(values: Tensor, group: Tensor, count: Tensor) -> Tensor:
    low = torch.zeros_like(count, dtype=values.dtype).scatter_reduce(
        0, group, values, "amin", include_self=False
    )
    high = torch.zeros_like(low).scatter_reduce(0, group, values, "amax", include_self=False)
    return low == high


def _biased_var(values: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum().clamp_min(1)
    mean = torch.where(mask, values, 0.0).sum() / count
    return torch.where(mask, (values - mean).square(), 0.0).sum() / count
