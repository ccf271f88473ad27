"""What an iteration of PPO reports; ``docs/metrics.md`` says what each number means."""

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from rlhf_forge.functional.advantages import explained_variance
from rlhf_forge.functional.kl import kl_estimate
from rlhf_forge.functional.masking import masked_mean
from rlhf_forge.modules.ppo_update import UpdateStats
from rlhf_forge.rollout import Experience, Rollout


def objective_metrics(rollout: Rollout) -> dict[str, float]:
    """Score, KL and shape of the responses: scores normalised, KL in nats per response."""
    kl = kl_estimate(rollout.log_probs, rollout.ref_log_probs, estimator="k1")
    return {
        "objective/score": rollout.scores.mean().item(),
        "objective/score_std": rollout.scores.std(correction=0).item(),
        "objective/kl": response_sum(kl, rollout.mask).mean().item(),
        "rollout/eos_fraction": rollout.finished.float().mean().item(),
        "rollout/length": rollout.mask.sum(-1).float().mean().item(),
    }


def iteration_metrics(rollout: Rollout, rewards: Tensor) -> dict[str, float]:
    """Metrics of a rollout as PPO sees it, rewards after the KL price."""
    return {
        **objective_metrics(rollout),
        "objective/reward": response_sum(rewards, rollout.mask).mean().item(),
        "policy/entropy": masked_mean(rollout.entropy, rollout.mask).item(),
    }


def critic_metrics(experience: Experience, updates: Sequence[UpdateStats]) -> dict[str, float]:
    """How well the critic foresaw what is learnt from, and how its updates went."""
    share = explained_variance(experience.old_values, experience.returns, experience.learnt)
    return {
        "value/explained_variance": share.item(),
        "value/clip_fraction": fmean(u.value_clip_fraction for u in updates),
    }


def update_metrics(updates: Sequence[UpdateStats]) -> dict[str, float]:
    """What an iteration's optimiser steps saw, how many were taken and how many were skipped.

    Means over all steps, that at which the iteration stopped included; gradient norms over those
    that got as far, the not finite ones left out.
    """
    norms = [u.grad_norms for u in updates if u.taken]
    metrics = {
        "policy/updates": float(len(norms)),
        "policy/skipped": float(sum(bool(u.grad_norms) and not u.taken for u in updates)),
        "policy/approx_kl": fmean(u.approx_kl for u in updates),
        "policy/clip_fraction": fmean(u.clip_fraction for u in updates),
        "policy/ratio_max": max(u.ratio_max for u in updates),
    }
    for role in norms[0] if norms else ():
        metrics[f"{role}/grad_norm"] = fmean(norm[role] for norm in norms)
    return metrics


def response_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over each response's tokens, [batch]."""
    return torch.where(mask, values, 0.0).sum(-1)
