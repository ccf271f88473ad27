"""How far the policy is from the reference, and how much that costs."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

MAX_RELATIVE_ERROR = 0.2


def kl_estimate(
    log_probs: Float[Tensor, "batch response"],
    ref_log_probs: Float[Tensor, "batch response"],
    *,
    estimator: Literal["k1", "k2", "k3"] = "k1",
) -> Float[Tensor, "batch response"]:
    """Estimate KL(policy ‖ reference) at each sampled token, in nats.

    With ℓ = log π(y) − log π_ref(y), for a token y that the policy itself drew:

        k1 = ℓ                  unbiased; single tokens may be negative
        k2 = ℓ² / 2             never negative; biased away from the reference
        k3 = exp(−ℓ) − 1 + ℓ    never negative and unbiased

    Unbiased holds for tokens drawn from π as it stands: at the temperature of ``log_probs`` and
    without top-k or top-p. The values estimate the KL; gradients are another matter. As a penalty
    inside the reward only k1 has the gradient of the KL, as a loss only k2 has it.

    Nothing is clamped. k3 exceeds float32 once the reference is 88 nats above the policy, and is
    then inf: only a token that the policy all but never draws can do that, so it should be seen.

    Args:
        log_probs: log π of the sampled tokens, in nats.
        ref_log_probs: log π_ref of the same tokens, at the same temperature, in nats.
        estimator: Which of the three to return.

    Returns:
        One estimate per token. Padding holds a number without meaning: mask it.

    Raises:
        ValueError: If ``estimator`` is none of the three.

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html.
    """
    log_ratio = log_probs - ref_log_probs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    if estimator == "k3":
        # expm1: near 0, where most tokens are, exp(x) − 1 loses all digits of a result of x² / 2.
        return torch.expm1(-log_ratio) + log_ratio
    raise ValueError(f"estimator must be k1, k2 or k3: got {estimator!r}")


def adapt_kl_coef(
    kl_coef: float | int,
    kl: float | int,
    *,
    target: float | int,
    horizon: float | int,
    num_samples: int,
) -> float:
    """Move the KL coefficient so that the KL drifts towards its target.

        error   = clip(kl / target − 1, −0.2, 0.2)
        kl_coef ← kl_coef · (1 + error · num_samples / horizon)

    Both KLs are per response, the sum over its tokens. A KL per token looks alike and is smaller
    by the length of the response: the coefficient would then fall without end.

    Args:
        kl_coef: The present coefficient, in reward-model units per nat.
        kl: Mean over the latest responses of their summed k1, in nats; may be negative by chance.
        target: The KL to hold, in nats per response.
        horizon: Responses over which the largest error changes the coefficient by about 20 %.
        num_samples: Responses since the last call, over all ranks.

    Returns:
        The coefficient for the next responses.

    Raises:
        ValueError: If ``kl_coef`` or ``num_samples`` is negative, ``target`` or ``horizon`` is not
            above 0, ``kl`` is not finite, or ``num_samples`` exceeds five horizons.

    Source: Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, section 2.2.
    """
    if not 0 <= kl_coef < math.inf:
        raise ValueError(f"kl_coef must be a finite number, 0 or more: got {kl_coef}")
    if not math.isfinite(kl):
        raise ValueError(f"kl must be finite: got {kl}; look for a log-probability of -inf or nan")
    if not (0 < target < math.inf and 0 < horizon < math.inf):
        raise ValueError(
            f"target and horizon must be finite and above 0: got {target} and {horizon}"
        )
    if not 0 <= num_samples * MAX_RELATIVE_ERROR <= horizon:
        raise ValueError(
            f"num_samples must be from 0 to 5 horizons, or the penalty could become a bonus: "
            f"got {num_samples} with a horizon of {horizon}"
        )
    error = min(max(kl / target - 1, -MAX_RELATIVE_ERROR), MAX_RELATIVE_ERROR)
    return float(kl_coef * (1 + error * num_samples / horizon))
