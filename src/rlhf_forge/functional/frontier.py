"""How far optimising a proxy carries what it stands for: the curve of Gao et al., fitted."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# Two coefficients, and at least one point left over to tell how well they are known.
LEAST_POINTS = 3
# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
T95_BEYOND = 2.2


class Peak(NamedTuple):
    """Where the curve has its maximum, in nats of KL.

    Attributes:
        kl: The estimate.
        low: Lower end of its 95 % interval.
        high: Upper end; inf where the points do not tell that there is a peak at all.
    """

    kl: float
    low: float
    high: float


class Frontier(NamedTuple):
    """R(d) = d (α − β log d), where d = √KL.

    Attributes:
        alpha: What the first of the distance brings, in score units.
        beta: How fast that wears off; 0 or less: the curve has no peak.
        peak: Its maximum; None if there is none.
    """

    alpha: float
    beta: float
    peak: Peak | None


def fit_frontier(kl: Float[Tensor, "points"], gains: Float[Tensor, "points"]) -> Frontier | None:
    """Fit the curve of over-optimisation to some policies of one run, by least squares.

        R(d) = d (α − β log d)        d = √KL        peak at d* = exp(α / β − 1)

    R is linear in α and β, so the fit has a closed form. The peak's interval is by the delta
    method on log d*, with Student's t and the spread of the points around the curve: it takes
    their errors as independent and alike, and the curve as true. Policies of one run share what
    they have learnt, so believe it less than it says.

    Args:
        kl: KL(policy ‖ start) of each policy, in nats per response. A point at 0 or below (an
            estimate may be) lies where the curve is 0 whatever its coefficients, and is left out.
        gains: Mean score of each policy less that of the start: of a judge that was not optimised
            against, in any unit.

    Returns:
        None for fewer than three points at different KL above 0.

    Source: Gao et al. 2022, https://arxiv.org/abs/2210.10760, section 3.1.
    """
    used = kl > 0
    distance, gains = kl[used].double().sqrt(), gains[used].double()
    if len(set(distance.tolist())) < LEAST_POINTS:
        return None
    terms = torch.stack([distance, -distance * distance.log()], dim=1)
    inverse = torch.linalg.inv(terms.T @ terms)
    coefficients = inverse @ terms.T @ gains
    free = len(distance) - 2
    variance = (gains - terms @ coefficients).square().sum() / free
    alpha, beta = coefficients.tolist()
    return Frontier(alpha, beta, _peak(alpha, beta, variance * inverse, free))


def _peak(alpha: float, beta: float, covariance: Float[Tensor, "2 2"], free: int) -> Peak | None:
    """KL is d², so the logarithm of its peak is twice that of d*."""
    if beta <= 0:
        return None
    middle = 2 * (alpha / beta - 1)
    slope = covariance.new_tensor([1 / beta, -alpha / beta**2])
    t = T95[free - 1] if free <= len(T95) else T95_BEYOND
    reach = 2 * t * math.sqrt(max(float(slope @ covariance @ slope), 0.0))
    kl, low, high = (_exp(at) for at in (middle, middle - reach, middle + reach))
    return Peak(kl, low, high) if math.isfinite(kl) else None


def _exp(number: float) -> float:
    """Beyond what a float holds it is inf."""
    return math.exp(number) if number < 700 else math.inf
