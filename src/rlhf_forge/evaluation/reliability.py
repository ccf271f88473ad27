"""Whether a reward model is right as often as it is sure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from rlhf_forge.functional.calibration import fitted_temperature
from rlhf_forge.functional.losses import bradley_terry_loss

BINS = 5
# 95 % of chi-squared with one degree of freedom: what a temperature gains by chance alone.
GAIN_BY_CHANCE = 3.841


@dataclass(frozen=True)
class Bin:
    """Pairs that the model is about equally sure of.

    Attributes:
        low: Least confidence, from 0.5.
        high: Most.
        confidence: The mean.
        accuracy: Share of labels that it sides with.
        n: Number of pairs.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True)
class Reliability:
    """Calibration of σ(chosen − rejected).

    Attributes:
        error: Expected calibration error over bins of width 0.1, from 0 to 0.5. Which answer
            stands first is an accident of the file, so only how sure the model is counts.
        nll: Negative log-likelihood, nats per pair; 0.693 is guessing.
        nll_fitted: The same at the fitted temperature.
        temperature: See `fitted_temperature`.
        off: Whether a temperature of 1 is ruled out, by a likelihood-ratio test at 95 %.
        bins: Of the reliability plot; empty ones left out.
    """

    error: float
    nll: float
    nll_fitted: float
    temperature: float
    off: bool
    bins: list[Bin]


def reliability_of(margins: Sequence[float], preferred: Sequence[float]) -> Reliability:
    """How well margins predict labels.

    Args:
        margins: Score of one answer less that of the other, in the nats of training, unscaled.
        preferred: For each pair the share of its labels that prefer the one.
    """
    lead, share = torch.tensor(margins).double(), torch.tensor(preferred).double()
    temperature = fitted_temperature(lead, share)

    def loss(at: float) -> float:
        return float(bradley_terry_loss(lead / at, torch.zeros_like(lead), preference=share))

    nll, fitted = loss(1.0), loss(temperature)
    bins = _bins(torch.sigmoid(lead).tolist(), preferred)
    gaps = [part.n * abs(part.confidence - part.accuracy) for part in bins]
    return Reliability(
        error=math.fsum(gaps) / max(len(margins), 1),
        nll=nll,
        nll_fitted=fitted,
        temperature=temperature,
        off=2 * len(margins) * (nll - fitted) > GAIN_BY_CHANCE,
        bins=bins,
    )


def _bins(chances: Sequence[float], preferred: Sequence[float]) -> list[Bin]:
    held: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for chance, share in zip(chances, preferred, strict=True):
        sure = max(chance, 1 - chance)
        right = 0.5 if chance == 0.5 else share if chance > 0.5 else 1 - share
        held[min(int((sure - 0.5) * 2 * BINS), BINS - 1)].append((sure, right))
    return [
        Bin(
            low=0.5 + place / (2 * BINS),
            high=0.5 + (place + 1) / (2 * BINS),
            confidence=fmean(sure for sure, _ in part),
            accuracy=fmean(right for _, right in part),
            n=len(part),
        )
        for place, part in enumerate(held)
        if part
    ]
