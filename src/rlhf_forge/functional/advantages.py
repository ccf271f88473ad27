"""From scores to advantages: what each token was rewarded, and how much better that is."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_forge.functional.masking import masked_var


def missing_eos_scores(
    scores: Float[Tensor, "batch"], has_eos: Bool[Tensor, "batch"], *, penalty: float | int
) -> Float[Tensor, "batch"]:
    """Give every response that never ended the score −penalty, in place of its own.

    Replaced, not lowered: the reward model has not seen how the response would have ended. This
    needs scores whose typical value is about 0. Where they lie below −penalty, never to stop
    would be rewarded.

    Args:
        scores: Reward-model scores, normalised and clipped before, since a clip afterwards could
            lift the penalty.
        has_eos: True where the response ended by itself, with whichever token ends one.
        penalty: In the unit of ``scores``, 0 or more.

    Returns:
        The scores of ended responses as they are, −penalty elsewhere.

    Raises:
        ValueError: If ``penalty`` is negative or not finite.

    Source: Huang et al. 2024, https://arxiv.org/abs/2403.17031, the "EOS trick".
    """
    if not 0 <= penalty < math.inf:
        raise ValueError(
            f"penalty must be a finite number, 0 or more: got {penalty}; it is subtracted for you"
        )
    return torch.where(has_eos, scores, -penalty)


def token_rewards(
    scores: Float[Tensor, "batch"],
    kl: Float[Tensor, "batch response"],
    mask: Bool[Tensor, "batch response"],
    *,
    kl_coef: float | int,
) -> Float[Tensor, "batch response"]:
    """Reward of every token: minus the KL penalty, plus the score on the last real token.

        r_t = −kl_coef · kl_t + [t is last] · score

    The score sits on the token that ends the response, not one behind it: there is no state after
    the end whose value a critic would have to learn.

    Args:
        scores: One for each response, in reward-model units. Not read for a response without a
            real token, which has no last one.
        kl: Estimate of KL(policy ‖ reference) at each token, in nats; k1, the only estimator
            whose policy gradient, inside a reward, is that of the KL.
        mask: True on real tokens; what stands outside it is never read.
        kl_coef: Reward-model units per nat, 0 or more.

    Returns:
        Rewards in reward-model units, 0 outside the mask.

    Raises:
        ValueError: If ``kl_coef`` is negative or not finite.

    Source: Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, section 2.
    """
    if not 0 <= kl_coef < math.inf:
        raise ValueError(
            f"kl_coef must be a finite number, 0 or more: got {kl_coef}; "
            "below 0 it would pay for drifting away"
        )
    real_tokens_from_here = mask.flip(-1).cumsum(-1).flip(-1)
    is_last = mask & (real_tokens_from_here == 1)
    penalties = kl_coef * torch.where(mask, kl, 0)
    return torch.where(is_last, scores[:, None], 0) - penalties


def generalized_advantage_estimation(
    rewards: Float[Tensor, "batch response"],
    values: Float[Tensor, "batch response"],
    mask: Bool[Tensor, "batch response"],
    *,
    gamma: float | int,
    gae_lambda: float | int,
) -> tuple[Float[Tensor, "batch response"], Float[Tensor, "batch response"]]:
    """Estimate the advantage and the return of every response token.

    Each response is walked from its last real token to its first:

        δ_t = r_t + γ V_{t+1} − V_t
        A_t = δ_t + γ λ A_{t+1}

    where t + 1 is the next real token, with no discount for a hole between; past the last one V
    and A are 0. A response is one finished episode, whether it ended by itself or met the length
    limit, so nothing is bootstrapped beyond it.

    Args:
        rewards: Reward for emitting token t, KL penalty included, in reward-model units.
        values: Critic's estimate, just before token t, of the return to come; same units.
        mask: True on real tokens; what stands outside it is never read.
        gamma: Discount per token, in [0, 1].
        gae_lambda: From 0 (one-step TD: low variance) to 1 (Monte Carlo: no bias).

    Returns:
        ``advantages``, not whitened, and ``returns = advantages + values``, both 0 outside the
        mask.

    Raises:
        ValueError: If ``gamma`` or ``gae_lambda`` is outside [0, 1].

    Source: Schulman et al. 2016, https://arxiv.org/abs/1506.02438, eq. 16.
    """
    for name, number in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0 <= number <= 1:
            raise ValueError(f"{name} must be from 0 to 1: got {number}")
    rewards, values = torch.where(mask, rewards, 0), torch.where(mask, values, 0)
    advantages = [torch.zeros_like(column) for column in values.unbind(1)]
    advantage = next_value = values.new_zeros(len(values))
    for t in reversed(range(len(advantages))):
        real = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(real, delta + gamma * gae_lambda * advantage, advantage)
        next_value = torch.where(real, values[:, t], next_value)
        advantages[t] = torch.where(real, advantage, 0)
    stacked = torch.stack(advantages, dim=1) if advantages else torch.zeros_like(values)
    return stacked, stacked + values


def explained_variance(
    values: Float[Tensor, "batch response"],
    returns: Float[Tensor, "batch response"],
    mask: Bool[Tensor, "batch response"],
) -> Float[Tensor, ""]:
    """Share of the returns' variance that the critic foresaw.

        1 − Var(returns − values) / Var(returns)

    1 is a perfect critic, 0 one no better than a constant, below 0 worse than that. A critic that
    is wrong by the same amount everywhere is not found out: compare the means for that.

    Args:
        values: The critic's estimates, from before it saw these returns.
        returns: What it should have said, in the same unit.
        mask: True on real tokens; what stands outside it is never read.

    Returns:
        The share; 0 where the returns do not vary or there are fewer than two tokens.
    """
    variance = masked_var(returns, mask)
    residual = masked_var(returns - values, mask)
    varies = variance > 0
    return torch.where(varies, 1 - residual / torch.where(varies, variance, 1), 0)


def rloo_advantages(
    sequence_rewards: Float[Tensor, "batch"], group_ids: Int[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """How much each response beats the mean of the others to the same prompt (leave one out).

        A_i = R_i − mean of R_j over the others j of the group

    The others are drawn independently of response i, so as a baseline they add no bias.

    Args:
        sequence_rewards: Score less the KL penalty summed over the response, in reward-model
            units.
        group_ids: Responses with the same number answer the same prompt; in any order.

    Returns:
        One advantage for each response, in reward-model units; exactly 0 in a group of one or of
        equals.

    Source: Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE; Ahmadian et al. 2024,
    https://arxiv.org/abs/2402.14740.
    """
    leads, group_size = _leads_in_group(sequence_rewards, group_ids)
    return leads.sum(1) / (group_size - 1).clamp(min=1)


def group_relative_advantages(
    sequence_rewards: Float[Tensor, "batch"],
    group_ids: Int[Tensor, "batch"],
    *,
    scale_by_std: bool,
) -> Float[Tensor, "batch"]:
    """How much each response beats the mean of its group, itself included (GRPO).

        A_i = (R_i − mean) / (std + 1e-4)

    Dividing by the spread makes prompts on which all do about the same count as much as the
    others; without it (Dr. GRPO) a prompt counts by how much its responses differ.

    Args:
        sequence_rewards: One for each response, in reward-model units.
        group_ids: Responses with the same number answer the same prompt; in any order.
        scale_by_std: Whether to divide by the group's unbiased standard deviation.

    Returns:
        One advantage for each response, without unit if scaled, otherwise in reward-model units;
        exactly 0 in a group of one or of equals.

    Source: Shao et al. 2024, https://arxiv.org/abs/2402.03300, section 4.1; without the scale, Liu
    et al. 2025, https://arxiv.org/abs/2503.20783.
    """
    leads, group_size = _leads_in_group(sequence_rewards, group_ids)
    centred = leads.sum(1) / group_size
    if not scale_by_std:
        return centred
    same_group = group_ids[:, None] == group_ids
    squares = torch.where(same_group, centred.square(), 0).sum(1)
    return centred / ((squares / (group_size - 1).clamp(min=1)).sqrt() + 1e-4)


def _leads_in_group(
    sequence_rewards: Float[Tensor, "batch"], group_ids: Int[Tensor, "batch"]
) -> tuple[Float[Tensor, "batch batch"], Int[Tensor, "batch"]]:
    """R_i − R_j for all pairs of a group, 0 for other pairs; and the size of i's group."""
    # Pairs rather than sums by group: equals differ by exactly 0, nothing leaks between groups,
    # and no order of summation depends on the device.
    same_group = group_ids[:, None] == group_ids
    leads = torch.where(same_group, sequence_rewards[:, None] - sequence_rewards, 0)
    return leads, same_group.sum(1)
