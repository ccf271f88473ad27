"""Every loss of the house.

``num_tokens`` and ``num_pairs`` count the whole optimiser step, over all micro-batches and ranks
(times the world size where gradients are averaged over ranks): however a step is cut, its loss and
its gradient are the same.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_forge.functional.kl import MAX_LOG_RATIO, kl_estimate
from rlhf_forge.functional.masking import masked_mean


class PolicyStats(NamedTuple):
    """Means over the tokens under the mask; no gradients.

    Attributes:
        clip_fraction: Share of tokens whose clipped branch is strictly the larger loss.
        approx_kl: k3 estimate of KL(old ‖ new), nats per token.
        ratio_max: Largest ratio; 1 if there are no tokens.
    """

    clip_fraction: Float[Tensor, ""]
    approx_kl: Float[Tensor, ""]
    ratio_max: Float[Tensor, ""]


class ValueStats(NamedTuple):
    """Means over the tokens under the mask; no gradients.

    Attributes:
        clip_fraction: Share of tokens whose clipped branch is strictly the larger loss.
    """

    clip_fraction: Float[Tensor, ""]


def sft_loss(
    log_probs: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"], *, num_tokens: int
) -> Float[Tensor, ""]:
    """Cross-entropy of the target tokens, in nats per token of the whole step.

    Args:
        log_probs: Of the tokens of the demonstrations, in nats.
        mask: True on target tokens.
        num_tokens: Target tokens of the whole optimiser step.

    Returns:
        Minus the sum over the mask, divided by ``num_tokens``; 0 for an empty mask.
    """
    return -torch.where(mask, log_probs, 0.0).sum() / max(num_tokens, 1)


def bradley_terry_loss(
    chosen_scores: Float[Tensor, "pairs"],
    rejected_scores: Float[Tensor, "pairs"],
    *,
    num_pairs: int | None = None,
    margin: Float[Tensor, "pairs"] | None = None,
    preference: Float[Tensor, "pairs"] | None = None,
    centering_coef: float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Negative log-likelihood that the preferred answer wins, in nats per pair.

    With d = chosen − rejected − margin and p the probability that chosen wins:

        −p log σ(d) − (1 − p) log σ(−d) + centering_coef (chosen + rejected)²

    Only differences count, so scores have no zero of their own; the centring term gives them one.
    A model that cannot tell pays log 2.

    Args:
        chosen_scores: Of the answers that were preferred.
        rejected_scores: Of the other answers to the same prompts, in the same order.
        num_pairs: Pairs of the whole optimiser step; None: those given.
        margin: Lead that the chosen answer must have, in score units; None: 0.
        preference: Probability per pair that chosen wins, in [0, 1], 0.5 for a tie; None: 1.
        centering_coef: Weight of the centring term.
        label_smoothing: Share of labels taken to be wrong, in [0, 0.5].

    Returns:
        Sum over pairs divided by ``num_pairs``; 0 for no pairs.

    Raises:
        ValueError: If ``label_smoothing`` is outside [0, 0.5].

    Source: Bradley & Terry 1952; Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 1;
    centring: Eisenstein et al. 2023, https://arxiv.org/abs/2312.09244.
    """
    _require_smoothing(label_smoothing)
    difference = chosen_scores - rejected_scores
    if margin is not None:
        difference = difference - margin
    wins = torch.ones_like(difference) if preference is None else preference
    wins = wins * (1 - label_smoothing) + (1 - wins) * label_smoothing
    losses = -wins * logsigmoid(difference) - (1 - wins) * logsigmoid(-difference)
    losses = losses + centering_coef * (chosen_scores + rejected_scores).square()
    return losses.sum() / max(losses.numel() if num_pairs is None else num_pairs, 1)


def clipped_policy_loss(
    log_probs: Float[Tensor, "batch time"],
    old_log_probs: Float[Tensor, "batch time"],
    advantages: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    clip_range: float,
    num_tokens: int,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
    weights: Float[Tensor, "batch time"] | None = None,
) -> tuple[Float[Tensor, ""], PolicyStats]:
    """PPO's clipped surrogate, per token of the whole step.

        ρ = exp(log π − log π_old)        L = −min(ρ A, clip(ρ, 1 − ε, 1 + ε_high) A)

    and with ``dual_clip`` c, for A < 0 only, L = min(L, −c A). The log-ratio is clamped to ±20
    before exp, or inf · 0 would be NaN.

    Args:
        log_probs: Of the sampled tokens under the policy that learns.
        old_log_probs: Under the policy that sampled; no gradient.
        advantages: Whitened; no gradient.
        mask: True on response tokens.
        clip_range: ε, above 0.
        num_tokens: Response tokens of the whole optimiser step.
        clip_range_high: ε_high; None: ε.
        dual_clip: c, above 1; None: off.
        weights: Factor on each token's loss, as truncated importance sampling has; None: 1.

    Returns:
        The loss, 0 for an empty mask, and statistics over these tokens.

    Raises:
        ValueError: If ``clip_range`` or ``clip_range_high`` is not positive, or ``dual_clip`` not
            above 1.

    Source: Schulman et al. 2017, https://arxiv.org/abs/1707.06347, eq. 7; dual clip: Ye et al.
    2020, https://arxiv.org/abs/1912.09729; clip-higher: Yu et al. 2025,
    https://arxiv.org/abs/2503.14476.
    """
    high = clip_range if clip_range_high is None else clip_range_high
    if clip_range <= 0 or high <= 0:
        raise ValueError(f"clip ranges must be positive, got {clip_range} and {high}")
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip must be above 1, got {dual_clip}")
    new, old = torch.where(mask, log_probs, 0.0), torch.where(mask, old_log_probs, 0.0)
    gains = torch.where(mask, advantages, 0.0)
    ratio = (new - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    plain, clipped = -ratio * gains, -ratio.clamp(1 - clip_range, 1 + high) * gains
    losses = torch.maximum(plain, clipped)
    if dual_clip is not None:
        losses = torch.where(gains < 0, torch.minimum(losses, -dual_clip * gains), losses)
    if weights is not None:
        losses = losses * torch.where(mask, weights, 0.0)
    stats = _policy_stats(ratio, plain, clipped, kl_estimate(old, new, estimator="k3"), mask)
    return torch.where(mask, losses, 0.0).sum() / max(num_tokens, 1), stats


def clipped_value_loss(
    values: Float[Tensor, "batch time"],
    old_values: Float[Tensor, "batch time"],
    returns: Float[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    clip_range: float,
    num_tokens: int,
) -> tuple[Float[Tensor, ""], ValueStats]:
    """The critic's squared error, with its move from the old estimate clipped.

        L = ½ max((V − R)², (V_old + clip(V − V_old, ±c) − R)²)

    c is in score units: where scores spread over 5, c = 0.2 freezes the critic.

    Args:
        values: Estimates of the critic that learns.
        old_values: Its estimates at the rollout; no gradient.
        returns: What it should have foreseen; no gradient.
        mask: True on response tokens.
        clip_range: c, above 0.
        num_tokens: Response tokens of the whole optimiser step.

    Returns:
        The loss, 0 for an empty mask, and statistics over these tokens.

    Raises:
        ValueError: If ``clip_range`` is not positive.

    Source: Dhariwal et al. 2017, https://github.com/openai/baselines (ppo2).
    """
    if clip_range <= 0:
        raise ValueError(f"clip_range must be positive, got {clip_range}")
    new, old = torch.where(mask, values, 0.0), torch.where(mask, old_values, 0.0)
    goals = torch.where(mask, returns, 0.0)
    moved = old + (new - old).clamp(-clip_range, clip_range)
    plain, clipped = (new - goals).square(), (moved - goals).square()
    losses = 0.5 * torch.where(mask, torch.maximum(plain, clipped), 0.0)
    stats = ValueStats(masked_mean((clipped > plain).to(new.dtype), mask).detach())
    return losses.sum() / max(num_tokens, 1), stats


def dpo_loss(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    *,
    beta: float,
    num_pairs: int | None = None,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Direct preference optimisation: the log-ratio to the reference is the reward, in nats a pair.

        h = β [(log π − log π_ref)(chosen) − (log π − log π_ref)(rejected)]
        L = −(1 − s) log σ(h) − s log σ(−h)

    Args:
        policy_chosen: Sum of the token log-probs of each chosen answer under the policy.
        policy_rejected: The same of the rejected answers.
        ref_chosen: Under the reference; no gradient.
        ref_rejected: Under the reference; no gradient.
        beta: Price of a nat of KL, above 0.
        num_pairs: Pairs of the whole optimiser step; None: those given.
        label_smoothing: s, the share of labels taken to be wrong, in [0, 0.5].

    Returns:
        Sum over pairs divided by ``num_pairs``; 0 for no pairs.

    Raises:
        ValueError: If ``beta`` is not positive or ``label_smoothing`` outside [0, 0.5].

    Source: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, eq. 7.
    """
    if beta <= 0:
        raise ValueError(f"beta must be positive, got {beta}")
    return bradley_terry_loss(
        beta * (policy_chosen - ref_chosen),
        beta * (policy_rejected - ref_rejected),
        num_pairs=num_pairs,
        label_smoothing=label_smoothing,
    )


def _policy_stats(
    ratio: Tensor, plain: Tensor, clipped: Tensor, kl: Tensor, mask: Tensor
) -> PolicyStats:
    largest = torch.where(mask, ratio, 0.0).amax() if mask.any() else ratio.new_ones(())
    return PolicyStats(
        clip_fraction=masked_mean((clipped > plain).to(ratio.dtype), mask).detach(),
        approx_kl=masked_mean(kl, mask).detach(),
        ratio_max=largest.detach(),
    )


def _require_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing <= 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5], got {label_smoothing}")
