"""Shares and means with their uncertainty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import torch
from torchmetrics.functional import spearman_corrcoef

# Two-sided 95 %.
Z95 = NormalDist().inv_cdf(0.975)
# Fewer ranks have no interval.
LEAST_RANKED = 4


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval.

    Attributes:
        value: Between 0 and 1.
        low: Lower end.
        high: Upper end.
        n: Number of cases.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error.

    Attributes:
        value: The mean.
        se: Its standard error; 0 for fewer than two cases.
        n: Number of cases.
    """

    value: float
    se: float
    n: int


def share_of(wins: Sequence[float]) -> Share:
    """Share of wins, a tie counting 0.5, with the Wilson score interval; [0, 1] for no cases.

    Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.
    """
    n = len(wins)
    if n == 0:
        return Share(0.0, 0.0, 1.0, 0)
    p = fmean(wins)
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    reach = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return Share(p, max(0.0, centre - reach), min(1.0, centre + reach), n)


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and standard error; 0 and 0 for no cases."""
    n = len(values)
    se = stdev(values) / math.sqrt(n) if n > 1 else 0.0
    return Mean(fmean(values) if values else 0.0, se, n)


def wins_of(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """1 where ours is higher, 0.5 where equal, else 0."""
    pairs = zip(ours, theirs, strict=True)
    return [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: The number.
        low: Lower end.
        high: Upper end.
        n: Number of cases.
    """

    value: float
    low: float
    high: float
    n: int


def difference_of(values: Sequence[float]) -> Estimate:
    """Mean of numbers from -1 to 1, with the interval of as many that are all at an end.

    It is Wilson's of (1 + value) / 2: too wide where values lie between, and never a mere point
    because a few of them happen to agree.
    """
    share = share_of([(1 + value) / 2 for value in values])
    return Estimate(2 * share.value - 1, 2 * share.low - 1, 2 * share.high - 1, share.n)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Spearman's correlation with its interval; 0 where one side is constant.

    Source: Bonett & Wright 2000, https://doi.org/10.1007/BF02294183, for the interval.
    """
    n = len(first)
    if n < LEAST_RANKED:
        return Estimate(0.0, -1.0, 1.0, n)
    sides = (torch.tensor(side, dtype=torch.float64) for side in (first, second))
    value = float(spearman_corrcoef(*sides))
    # So few ranks that agree by chance would leave no interval at all.
    shown = max(1 / n - 1, min(1 - 1 / n, value))
    wide = Z95 * math.sqrt((1 + shown**2 / 2) / (n - 3))
    centre = math.atanh(shown)
    low, high = math.tanh(centre - wide), math.tanh(centre + wide)
    return Estimate(value, min(value, low), max(value, high), n)
