"""Statistics of the real entries of a padded tensor."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of the real entries, all dimensions together.

    Args:
        values: What to average; what stands outside the mask is never read.
        mask: True on the entries that count.

    Returns:
        Their mean, in the unit of ``values``; 0 if there are none.
    """
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def masked_var(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Unbiased variance of the real entries: squared deviations over their number less one.

    Equal entries give exactly 0, whatever their size.

    Args:
        values: Whose spread to measure; what stands outside the mask is never read.
        mask: True on the entries that count.

    Returns:
        The variance, in the squared unit of ``values``; 0 below two entries.
    """
    return _deviations(values, mask).square().sum() / (mask.sum() - 1).clamp(min=1)


def whiten(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Shift and scale the real entries to mean 0 and variance 1.

        (x − mean) / √(variance + 1e-8)

    PPO's advantages are whitened over the whole rollout: whitened by minibatch, a token would
    weigh more or less by the company it keeps.

    Args:
        values: Of any unit; what stands outside the mask is never read.
        mask: True on the entries that count.

    Returns:
        The whitened entries, without unit, and 0 outside the mask. Equal entries, and a single
        one, become exactly 0.
    """
    return _deviations(values, mask) / (masked_var(values, mask) + 1e-8).sqrt()


def _deviations(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Real entries less their mean; 0 outside the mask."""
    # The mean of equal numbers can be an ulp off, which whiten's 1e-8 may blow up to size 1.
    # Counted from one of them (the empty sum is 0), equal numbers are zeros, and so is their mean.
    origin = values[mask][:1].sum().detach()
    shifted = torch.where(mask, values, 0) - origin
    return torch.where(mask, shifted - masked_mean(shifted, mask), 0)
