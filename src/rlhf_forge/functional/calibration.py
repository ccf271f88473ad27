"""How far the probabilities that scores imply can be believed."""

import torch
from jaxtyping import Float
from torch import Tensor

# The ends between which a temperature is looked for: past them scores say all, or nothing.
COLDEST, HOTTEST = 0.01, 100.0
HALVINGS = 60


def fitted_temperature(
    margins: Float[Tensor, "pairs"], preference: Float[Tensor, "pairs"]
) -> float:
    """Temperature at which margins predict labels best.

    It minimises the negative log-likelihood of σ(margin / T), which is convex in 1 / T: above 1 the
    scores were too sure of themselves, below 1 not sure enough. Margins that are all right want
    `COLDEST`, margins that are no better than chance or wrong want `HOTTEST`.

    Args:
        margins: Score of one answer less that of the other, in nats as the loss trained them.
        preference: For each pair the share of its labels that prefer the one.

    Returns:
        T, from 0.01 to 100; 1 for no pairs.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2.
    """
    if not margins.numel():
        return 1.0
    wide, share = margins.double(), preference.double()
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # The derivative of the mean of -p log σ(a m) - (1 - p) log σ(-a m) by a.
        slope = (wide * (torch.sigmoid(middle * wide) - share)).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 2 / (low + high)
