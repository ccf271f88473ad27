"""How far the policy is from the reference, and how strongly that is priced."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

# exp of more than this is clipped: single tokens can be any number of nats apart.
MAX_LOG_RATIO = 20.0


def kl_estimate(
    log_probs: Float[Tensor, "batch time"],
    ref_log_probs: Float[Tensor, "batch time"],
    *,
    estimator: Literal["k1", "k2", "k3"] = "k1",
) -> Float[Tensor, "batch time"]:
    """Estimate KL(policy ‖ reference) at each sampled token, in nats.

    With ℓ = log π(y) − log π_ref(y) of a token y that the policy drew:

        k1 = ℓ                  unbiased; negative for single tokens
        k2 = ℓ² / 2             never negative; biased
        k3 = exp(−ℓ) − 1 + ℓ    never negative, unbiased

    As a penalty inside the reward only k1 gives the gradient of the KL divergence; k2 does as a
    loss; k3 is for logs. In k3 the exponent is clamped to ±20, beyond which it would overflow.

    Args:
        log_probs: log π of the sampled tokens, in nats.
        ref_log_probs: log π_ref of the same tokens, in nats.
        estimator: Which of the three.

    Returns:
        One estimate a token. Padding holds a number without meaning: mask it.

    Raises:
        ValueError: If there is no such estimator.

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html.
    """
    log_ratio = log_probs - ref_log_probs
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    if estimator == "k3":
        return torch.expm1((-log_ratio).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)) + log_ratio
    raise ValueError(f"estimator must be k1, k2 or k3, got {estimator!r}")


def adapt_kl_coef(
    kl_coef: float, kl: float, *, target: float, horizon: int, num_samples: int
) -> float:
    """Move the price of KL so that KL moves towards its target.

        e = clip(kl / target − 1, ±0.2)        kl_coef ← kl_coef · (1 + e · num_samples / horizon)

    Args:
        kl_coef: Price so far, in score units per nat.
        kl: Mean over responses of the sum of k1 over their tokens, in nats per response.
        target: Where that mean should be, in nats per response.
        horizon: Responses over which the price may move by a factor of about e^0.2.
        num_samples: Responses that ``kl`` is the mean of, over all ranks.

    Returns:
        The new price.

    Raises:
        ValueError: If ``target`` or ``horizon`` is not positive.

    Source: Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, section 2.2.
    """
    if target <= 0 or horizon <= 0:
        raise ValueError(f"target and horizon must be positive, got {target} and {horizon}")
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_samples / horizon)
