"""Relatives of `rlhf_forge.functional.losses.dpo_loss`, of the same inputs.

Each is a sum over the pairs given, divided by the pair count of the whole optimiser step.
"""

import math

from jaxtyping import Float
from torch import Tensor

from rlhf_forge.functional.losses import divisor, dpo_loss


def ipo_loss(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    *,
    beta: float | int,
    num_pairs: int | None = None,
) -> Float[Tensor, ""]:
    """Identity preference optimisation: the preferred response is to lead by 1 / (2β), not more.

        h    = (log π − log π_ref)(chosen) − (log π − log π_ref)(rejected)
        loss = (h − 1 / (2β))²

    DPO's lead grows without end on a pair that is always labelled alike, whatever β. Here it
    settles: at (2p − 1) / (2β) where chosen wins with probability p.

    Args:
        policy_chosen: Mean token log-prob of each preferred response, in nats per token, with
            gradient. Means and not sums, or the one target would be far for short responses and
            near for long ones.
        policy_rejected: The same of the other response to the same prompt.
        ref_chosen: The means under the reference, without gradient.
        ref_rejected: The same of the other response.
        beta: Above 0: the larger, the smaller the lead. The paper's τ.
        num_pairs: Pairs in the whole optimiser step; None for the number given.

    Returns:
        Sum over the pairs given, divided by ``num_pairs``, in squared nats per token; 0 for none.

    Raises:
        ValueError: If ``beta`` or ``num_pairs`` lies outside its range.

    Source: Azar et al. 2023, https://arxiv.org/abs/2310.12036, eq. 17; means: its authors
    in https://huggingface.co/blog/pref-tuning.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be a finite number above 0: got {beta}")
    lead = (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)
    losses = (lead - 1 / (2 * beta)).square()
    return losses.sum() / divisor("num_pairs", len(losses) if num_pairs is None else num_pairs)


def robust_dpo_loss(
    policy_chosen: Float[Tensor, "pairs"],
    policy_rejected: Float[Tensor, "pairs"],
    ref_chosen: Float[Tensor, "pairs"],
    ref_rejected: Float[Tensor, "pairs"],
    *,
    beta: float | int,
    label_smoothing: float | int,
    num_pairs: int | None = None,
) -> Float[Tensor, ""]:
    """DPO on labels of which a known share ε is the wrong way round: unbiased for the right ones.

        loss = ((1 − ε) ℓ(h) − ε ℓ(−h)) / (1 − 2ε)        ℓ(h) = −log σ(h), DPO's own loss

    In expectation over the flips this is ℓ of the unflipped pair, where `dpo_loss` with the same
    ε (conservative DPO) only expects to be wrong that often. The price is variance, and no lower
    bound: the loss of a pair falls below 0 as its lead grows.

    Args:
        policy_chosen: Summed token log-probs of each preferred response, in nats, with gradient.
        policy_rejected: The same of the other response to the same prompt.
        ref_chosen: The sums under the reference, without gradient.
        ref_rejected: The same of the other response.
        beta: Reward units per nat, above 0, as in `dpo_loss`.
        label_smoothing: The share ε, in [0, 0.5); 0 is `dpo_loss`.
        num_pairs: Pairs in the whole optimiser step; None for the number given.

    Returns:
        Sum over the pairs given, divided by ``num_pairs``, in nats per pair; 0 for none.

    Raises:
        ValueError: If ``beta``, ``num_pairs`` or ``label_smoothing`` lies outside its range.

    Source: Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing must be from 0 to below 0.5: got {label_smoothing}; half the labels "
            "wrong say nothing"
        )
    as_labelled, flipped = (
        dpo_loss(*sides, beta=beta, num_pairs=num_pairs)
        for sides in (
            (policy_chosen, policy_rejected, ref_chosen, ref_rejected),
            (policy_rejected, policy_chosen, ref_rejected, ref_chosen),
        )
    )
    scale = 1 - 2 * label_smoothing
    return ((1 - label_smoothing) * as_labelled - label_smoothing * flipped) / scale
