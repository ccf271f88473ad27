"""Statistics over the real tokens of a padded batch.

``mask`` is True on real entries. What stands outside is never read, not even multiplied by zero:
NaN and inf there change neither values nor gradients.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean of the entries under the mask; 0 if there are none.

    Args:
        values: Any numbers.
        mask: True on the entries to average.
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)


def masked_var(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Unbiased variance of the entries under the mask; 0 if there are fewer than two.

    Args:
        values: Any numbers.
        mask: True on the entries to look at.
    """
    real = torch.where(mask, values, 0.0)
    deviations = torch.where(mask, real - masked_mean(real, mask), 0.0)
    return deviations.square().sum() / (mask.sum() - 1).clamp_min(1)


def whiten(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Shift and scale the entries under the mask to mean 0 and variance 1.

    ``(x - mean) / sqrt(var + 1e-8)``: equal entries, and a single one, become 0.

    Args:
        values: Any numbers, such as the advantages of a whole rollout.
        mask: True on the entries to whiten.

    Returns:
        The whitened entries, and 0 outside the mask.
    """
    real = torch.where(mask, values, 0.0)
    scale = (masked_var(real, mask) + 1e-8).rsqrt()
    return torch.where(mask, (real - masked_mean(real, mask)) * scale, 0.0)
