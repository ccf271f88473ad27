"""The losses of all stages: sums over what is given, divided by the count of the whole step.

``num_tokens`` and ``num_pairs`` count the whole optimiser step, over all micro-batches and ranks.
However a step is cut, its pieces then add up to the same loss and gradient, and a token weighs the
same wherever it stands. Where ranks average their gradients, multiply by the number of ranks.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_forge.functional.masking import masked_mean

# exp(20) is 5e8: beyond any ratio that training survives, and far from float32's overflow, after
# which inf · 0 would be nan.
MAX_LOG_RATIO = 20.0


class PolicyStats(NamedTuple):
    """What one policy loss saw, over its own real tokens and detached; all 0 if it had none.

    To join micro-batches, weigh their means by their tokens.

    Attributes:
        clip_fraction: Share of tokens where the clipped branch is strictly larger.
        approx_kl: Mean k3 estimate of KL(old policy ‖ new policy), in nats per token.
        ratio_max: Largest π / π_old of a token.
    """

    clip_fraction: Float[Tensor, ""]
    approx_kl: Float[Tensor, ""]
    ratio_max: Float[Tensor, ""]


class ValueStats(NamedTuple):
    """What one value loss saw, over its own real tokens and detached; 0 if it had none.

    Attributes:
        clip_fraction: Share of tokens where the clipped branch is strictly larger.
    """

    clip_fraction: Float[Tensor, ""]


def sft_loss(
    log_probs: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"], *, num_tokens: int
) -> Float[Tensor, ""]:
    """Negative log-likelihood of the tokens to learn, in nats per token.

    Args:
        log_probs: Log-probability of each token, in nats.
        mask: True on the tokens to learn; what stands outside it is never read.
        num_tokens: Tokens to learn in the whole optimiser step.

    Returns:
        Sum over the tokens given, divided by ``num_tokens``; 0 for none.

    Raises:
        ValueError: If ``num_tokens`` is negative.
    """
    return -torch.where(mask, log_probs, 0).sum() / divisor("num_tokens", num_tokens)


def bradley_terry_loss(
    chosen_scores: Float[Tensor, "pairs"],
    rejected_scores: Float[Tensor, "pairs"],
    *,
    num_pairs: int | None = None,
    margin: Float[Tensor, "pairs"] | None = None,
    preference: Float[Tensor, "pairs"] | None = None,
    centering_coef: float | int = 0.0,
    label_smoothing: float | int = 0.0,
    weights: Float[Tensor, "pairs"] | None = None,
) -> Float[Tensor, ""]:
    """Negative log-likelihood that the preferred response wins, in nats per pair.

        lead = s_chosen − s_rejected − margin
        loss = −p log σ(lead) − (1 − p) log σ(−lead) + centering_coef · (s_chosen + s_rejected)²

    A lead of 1 means odds of e to 1; a model that cannot tell pays log 2 ≈ 0.693. Only the
    difference counts, so scores have no zero until centering gives them one.

    Args:
        chosen_scores: Reward-model score of the response the annotator preferred.
        rejected_scores: Score of the other response to the same prompt, in the same order.
        num_pairs: Pairs in the whole optimiser step; None for the number given.
        margin: Lead that the chosen response of each pair owes, in units of the score; None for 0.
        preference: Probability p, in [0, 1], that chosen is the better one: 0.5 for a tie; None
            for 1.
        centering_coef: Weight, 0 or more, of the pull of each pair's sum towards 0.
        label_smoothing: Share of labels, in [0, 0.5], taken to be the wrong way round.
        weights: What each pair's loss is multiplied by, centering included; None for 1.

    Returns:
        Sum over the pairs given, divided by ``num_pairs``; 0 for none.

    Raises:
        ValueError: If ``num_pairs`` or ``centering_coef`` is negative, or a ``preference`` or
            ``label_smoothing`` lies outside its range.

    Source: Bradley & Terry 1952; Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 1;
    margin: Touvron et al. 2023, https://arxiv.org/abs/2307.09288, eq. 2; centering: Eisenstein et
    al. 2023, https://arxiv.org/abs/2312.09244.
    """
    if not 0 <= centering_coef < math.inf:
        raise ValueError(f"centering_coef must be a finite number, 0 or more: got {centering_coef}")
    if not 0 <= label_smoothing <= 0.5:
        raise ValueError(f"label_smoothing must be from 0 to 0.5: got {label_smoothing}")
    if preference is None:
        preference = torch.ones_like(chosen_scores)
    elif not ((preference >= 0) & (preference <= 1)).all():
        low, high = preference.aminmax()
        raise ValueError(f"preference must be from 0 to 1: got values from {low} to {high}")
    wins = preference * (1 - label_smoothing) + (1 - preference) * label_smoothing
    lead = chosen_scores - rejected_scores - (0 if margin is None else margin)
    losses = -wins * logsigmoid(lead) - (1 - wins) * logsigmoid(-lead)
    losses = losses + centering_coef * (chosen_scores + rejected_scores).square()
    losses = losses * (1 if weights is None else weights)
    return losses.sum() / divisor("num_pairs", len(losses) if num_pairs is None else num_pairs)


def clipped_policy_loss(  # noqa: PLR0913 - PPO's inputs, and the knobs of its named variants
    log_probs: Float[Tensor, "batch response"],
    old_log_probs: Float[Tensor, "batch response"],
    advantages: Float[Tensor, "batch response"],
    mask: Bool[Tensor, "batch response"],
    *,
    clip_range: float | int,
    num_tokens: int,
    clip_range_high: float | int | None = None,
    dual_clip: float | int | None = None,
    weights: Float[Tensor, "batch response"] | None = None,
) -> tuple[Float[Tensor, ""], PolicyStats]:
    """PPO's clipped surrogate: follow the advantage, but not far from the policy that sampled.

        ratio = exp(log π − log π_old)
        loss  = max(−ratio · A, −clip(ratio, 1 − clip_range, 1 + clip_range_high) · A)

    A token that has moved past the range in the direction its advantage asks for gets no gradient;
    one on the wrong side always does. At π = π_old the gradient is that of plain policy gradient.

    Args:
        log_probs: log π of the sampled tokens, in nats, with gradient.
        old_log_probs: The same under the policy that sampled them, at the same temperature,
            without. A difference beyond ±20 nats counts as ±20, and has no gradient.
        advantages: How much better than expected each token did; whitened before, as a rule.
        mask: True on real tokens; what stands outside it is never read.
        clip_range: How far the ratio may fall below 1, above 0.
        num_tokens: Real tokens in the whole optimiser step.
        clip_range_high: How far it may rise above 1; None for ``clip_range``.
        dual_clip: Above 1: a token with A < 0 costs at most −dual_clip · A; None for no limit.
        weights: Factor on each token's loss, such as the truncated importance of tokens drawn by
            another engine; not in the statistics. None for 1.

    Returns:
        Sum over the tokens given, divided by ``num_tokens``, 0 for none; and what it saw.

    Raises:
        ValueError: If a clip range is not above 0, ``dual_clip`` is not above 1 or ``num_tokens``
            is negative.

    Source: Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7; two ranges: Yu et al.
    2025, https://arxiv.org/abs/2503.14476; dual clip: Ye et al. 2020,
    https://arxiv.org/abs/1912.09729.
    """
    high = clip_range if clip_range_high is None else clip_range_high
    _check_above("clip_range", clip_range, 0)
    _check_above("clip_range_high", high, 0)
    log_ratio = torch.where(mask, log_probs, 0) - torch.where(mask, old_log_probs, 0)
    log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    advantages = torch.where(mask, advantages, 0)
    unclipped = -ratio * advantages
    clipped = -ratio.clamp(1 - clip_range, 1 + high) * advantages
    losses = torch.maximum(unclipped, clipped)
    if dual_clip is not None:
        _check_above("dual_clip", dual_clip, 1)
        limit = torch.where(advantages < 0, -dual_clip * advantages, math.inf)
        losses = torch.minimum(losses, limit)
    if weights is not None:
        losses = losses * torch.where(mask, weights, 0)
    stats = _policy_stats(log_ratio.detach(), (clipped > unclipped).to(losses.dtype), mask)
    return losses.sum() / divisor("num_tokens", num_tokens), stats


def clipped_value_loss(
    values: Float[Tensor, "batch response"],
    old_values: Float[Tensor, "batch response"],
    returns: Float[Tensor, "batch response"],
    mask: Bool[Tensor, "batch response"],
    *,
    clip_range: float | int,
    num_tokens: int,
) -> tuple[Float[Tensor, ""], ValueStats]:
    """Half the squared error of the critic, which may not leave its old estimate by a leap.

        loss = ½ max((V − R)², (clip(V, V_old − clip_range, V_old + clip_range) − R)²)

    A value that has already moved further than the range towards its return gets no gradient.
    A range of 0.2 suits scores of standard deviation 1 and would freeze a critic of returns like 5.

    Args:
        values: The critic's estimates, with gradient.
        old_values: Its estimates at the rollout, without.
        returns: What the estimates should be, from unwhitened advantages.
        mask: True on real tokens; what stands outside it is never read.
        clip_range: In reward-model units, above 0; inf for no clipping.
        num_tokens: Real tokens in the whole optimiser step.

    Returns:
        Sum over the tokens given, divided by ``num_tokens``, 0 for none; and what it saw.

    Raises:
        ValueError: If ``clip_range`` is not above 0 or ``num_tokens`` is negative.

    Source: Not in the PPO paper but in its first implementation; Huang et al. 2022,
    https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/, detail 9.
    """
    _check_above("clip_range", clip_range, 0)
    values, old_values = torch.where(mask, values, 0), torch.where(mask, old_values, 0)
    returns = torch.where(mask, returns, 0)
    unclipped = (values - returns).square()
    # Not old + clamp(new − old), whose rounding inside the range would count as clipped.
    clipped = (values.clamp(old_values - clip_range, old_values + clip_range) - returns).square()
    loss = torch.maximum(unclipped, clipped).sum() / 2 / divisor("num_tokens", num_tokens)
    return loss, ValueStats(masked_mean((clipped > unclipped).to(values.dtype), mask))


def dpo_loss(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    *,
    beta: float | int,
    num_pairs: int | None = None,
    label_smoothing: float | int = 0.0,
) -> Float[Tensor, ""]:
    """Direct preference optimisation: `bradley_terry_loss` of the scores the policy implies.

        s = β (log π(response) − log π_ref(response))

    Every policy is optimal for some reward under a KL penalty of β per nat. s is that reward, up
    to a constant of the prompt, which cancels in a pair.

    Args:
        policy_chosen: Summed token log-probs of each preferred response, in nats, with gradient.
        policy_rejected: The same of the other response to the same prompt.
        ref_chosen: The sums under the reference, without gradient.
        ref_rejected: The same of the other response.
        beta: Reward units per nat, above 0: the larger, the closer to the reference it stays.
        num_pairs: Pairs in the whole optimiser step; None for the number given.
        label_smoothing: Share of labels, in [0, 0.5], taken to be the wrong way round.

    Returns:
        Sum over the pairs given, divided by ``num_pairs``, in nats per pair; 0 for none.

    Raises:
        ValueError: If ``beta``, ``num_pairs`` or ``label_smoothing`` lies outside its range.

    Source: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 7; smoothing: Mitchell
    2023, https://ericmitchell.ai/cdpo.pdf.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be a finite number above 0: got {beta}")
    return bradley_terry_loss(
        beta * (policy_chosen - ref_chosen),
        beta * (policy_rejected - ref_rejected),
        num_pairs=num_pairs,
        label_smoothing=label_smoothing,
    )


def _policy_stats(
    log_ratio: Float[Tensor, "batch response"],
    is_clipped: Float[Tensor, "batch response"],
    mask: Bool[Tensor, "batch response"],
) -> PolicyStats:
    # k3 in the direction of the sampler: ratio − 1 − log ratio for tokens drawn from π_old.
    k3 = torch.expm1(log_ratio) - log_ratio
    # A ratio is above 0, so the 0 appended is the largest only where there is no token.
    ratios = torch.cat([log_ratio[mask].exp(), log_ratio.new_zeros(1)])
    return PolicyStats(masked_mean(is_clipped, mask), masked_mean(k3, mask), ratios.max())


def divisor(name: str, count: int) -> int:
    """What a sum over part of an optimiser step is divided by: the step's count, or 1 for 0."""
    if count < 0:
        raise ValueError(f"{name} must be 0 or more, the count of the whole step: got {count}")
    return max(count, 1)


def _check_above(name: str, number: float | int, bound: int) -> None:
    if not number > bound:
        raise ValueError(f"{name} must be above {bound}: got {number}")
