"""Shares and means with their uncertainty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

# Two-sided 95 %.
Z95 = NormalDist().inv_cdf(0.975)


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
