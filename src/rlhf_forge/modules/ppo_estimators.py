"""From the scores of a rollout to the advantage of each token: one key, four estimators."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_forge.functional.advantages import (
    generalized_advantage_estimation,
    group_relative_advantages,
    missing_eos_scores,
    rloo_advantages,
)
from rlhf_forge.functional.kl import adapt_kl_coef
from rlhf_forge.functional.masking import masked_var, whiten
from rlhf_forge.modules.ppo_metrics import response_sum
from rlhf_forge.modules.settings import ObjectiveSettings, UpdateSettings
from rlhf_forge.rollout import Rollout


def shaped_scores(rollout: Rollout, objective: ObjectiveSettings) -> Float[Tensor, "batch"]:
    """Scores, clipped, and then replaced where the length limit cut the response.

    In this order: clipping after the rule could lift a penalised row.
    """
    clip = objective.score_clip
    return missing_eos_scores(
        rollout.scores.clamp(-clip, clip),
        rollout.finished,
        penalty=objective.missing_eos_penalty,
    )


def steered_kl_coef(
    kl_coef: float, kl: Float[Tensor, "batch time"], rollout: Rollout, objective: ObjectiveSettings
) -> float:
    """The price of KL after a rollout: moved towards the objective's target, if it has one."""
    if objective.kl_target is None:
        return kl_coef
    return adapt_kl_coef(
        kl_coef,
        float(response_sum(kl, rollout.mask).mean()),
        target=objective.kl_target,
        horizon=objective.kl_horizon,
        num_samples=len(rollout.scores),
    )


def learnt_tokens(rollout: Rollout, settings: UpdateSettings) -> Bool[Tensor, "batch time"]:
    """The response tokens that teach: all, or those of finished responses only.

    Leaving cut responses out is the overlong filtering of Yu et al. 2025,
    https://arxiv.org/abs/2503.14476.
    """
    if settings.learn_from_cut:
        return rollout.mask
    return rollout.mask & rollout.finished.unsqueeze(1)


def estimate_advantages(
    rollout: Rollout,
    rewards: Float[Tensor, "batch time"],
    settings: UpdateSettings,
    *,
    responses_per_prompt: int,
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    """Advantages of a rollout's tokens.

    With ``gae`` they are whitened over the whole rollout. The other three give every token of a
    response the same, and take it as it is: it is centred already.

    Args:
        rollout: Responses to one prompt stand one behind the other.
        rewards: Of each token, 0 outside the responses.
        settings: Which estimator.
        responses_per_prompt: Size of the groups that responses are compared in.

    Returns:
        ``advantages``, how much better than expected each token did, and ``returns``, what the
        critic should have said before it (0 without a critic); both 0 on what is not learnt.
    """
    mask = learnt_tokens(rollout, settings)
    if settings.advantage == "gae":
        return _with_critic(rollout, rewards, mask, settings)
    # A response that teaches nothing is still one that the others are compared with.
    totals = response_sum(rewards, rollout.mask)
    groups = torch.arange(len(totals), device=totals.device) // responses_per_prompt
    leads = _against_the_others(totals, groups, settings)
    return torch.where(mask, leads.unsqueeze(1), 0.0), torch.zeros_like(rewards)


def scaled(
    rewards: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """Rewards divided by their standard deviation over all tokens; their mean is not moved."""
    return rewards / (masked_var(rewards, mask) + 1e-8).sqrt()


def _with_critic(
    rollout: Rollout, rewards: Tensor, mask: Tensor, settings: UpdateSettings
) -> tuple[Float[Tensor, "batch time"], Float[Tensor, "batch time"]]:
    advantages, returns = generalized_advantage_estimation(
        rewards, rollout.values, mask, gamma=settings.gamma, gae_lambda=settings.gae_lambda
    )
    if settings.value_gae_lambda is not None:
        _, returns = generalized_advantage_estimation(
            rewards,
            rollout.values,
            mask,
            gamma=settings.gamma,
            gae_lambda=settings.value_gae_lambda,
        )
    return whiten(advantages, mask), returns


def _against_the_others(
    totals: Float[Tensor, "batch"], groups: Int[Tensor, "batch"], settings: UpdateSettings
) -> Float[Tensor, "batch"]:
    if settings.advantage == "rloo":
        return rloo_advantages(totals, groups)
    return group_relative_advantages(totals, groups, scale_by_std=settings.advantage == "grpo")
