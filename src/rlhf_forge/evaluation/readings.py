"""Readings of a policy on fixed prompts along a run, and what a later one tells beside another."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import torch

from rlhf_forge.evaluation.statistics import Mean, mean_of
from rlhf_forge.functional.frontier import Frontier, fit_frontier


@dataclass(frozen=True)
class Reading:
    """One policy's responses to the fixed prompts, in numbers; entry i of a list is of prompt i.

    Attributes:
        iteration: Behind which the policy stood; 0 is where PPO starts.
        scores: Of the reward that PPO maximises, before it is clipped and KL is paid.
        lengths: In tokens.
        kl: KL(policy ‖ reference) by k1, nats a response, mean.
        eos: Share of the responses that ended by themselves.
        repetition: See `rlhf_forge.evaluation.diversity`.
        distinct: Of bigrams; see there.
        judged: The judge's scores; empty without a judge.
        accuracy: Share that the judge calls right; None if it does not say.
    """

    iteration: int
    scores: list[float]
    lengths: list[int]
    kl: float
    eos: float
    repetition: float
    distinct: float
    judged: list[float] = field(default_factory=list)
    accuracy: float | None = None

    @property
    def score(self) -> float:
        """Mean of the reward."""
        return fmean(self.scores)

    @property
    def judge(self) -> float:
        """Mean of the judge's scores."""
        return fmean(self.judged)

    @property
    def length(self) -> float:
        """Mean length in tokens."""
        return fmean(self.lengths)


def best_by_judge(readings: Sequence[Reading]) -> Reading:
    """The first of those whose judge's mean is highest."""
    return max(readings, key=lambda reading: reading.judge)


def kept_by_judge(readings: Sequence[Reading]) -> Reading:
    """The reading whose state is kept: a later one only if the judge can tell that it is better.

    That is when its mean is above that of the one kept so far by more than the standard error of
    the difference, paired by prompt; the one-standard-error rule of Breiman et al. 1984. Of states
    that the judge cannot tell apart the earlier is the safer: what the judge does not see goes
    wrong later on.
    """
    kept = readings[0]
    for reading in readings[1:]:
        rise = change(kept.judged, reading.judged)
        if rise.value > rise.se:
            kept = reading
    return kept


def change(before: Sequence[float], after: Sequence[float]) -> Mean:
    """Mean change of a number that each prompt has twice, paired by prompt."""
    return mean_of([b - a for a, b in zip(before, after, strict=True)])


def spread(values: Sequence[float]) -> float:
    """Standard deviation over the prompts; 0 for a single one."""
    return stdev(values) if len(values) > 1 else 0.0


def rise_at_equal_length(before: Reading, after: Reading) -> float:
    """What the reward has risen by beyond what its responses' change of length accounts for.

    The analysis of covariance: within each of the two readings the scores are regressed on length,
    with one slope for both, and the rise of the means is taken at equal length. A regression uses
    every response, where bins would leave those out that have no like in the other reading; it
    knows straight lines only. The slope says what goes with length among these responses, not what
    length causes. If no two lengths in a reading differ, the rise itself.
    """
    pairs = [_centred(reading) for reading in (before, after)]
    covered = sum(x * y for lengths, scores in pairs for x, y in zip(lengths, scores, strict=True))
    variation = sum(x * x for lengths, _ in pairs for x in lengths)
    slope = covered / variation if variation else 0.0
    return after.score - before.score - slope * (after.length - before.length)


def frontier_of(readings: Sequence[Reading]) -> Frontier | None:
    """The curve of Gao et al. through the judge's scores, counted from the first reading."""
    start = readings[0].judge
    return fit_frontier(
        torch.tensor([reading.kl for reading in readings], dtype=torch.float64),
        torch.tensor([reading.judge - start for reading in readings], dtype=torch.float64),
    )


def _centred(reading: Reading) -> tuple[list[float], list[float]]:
    lengths = [length - reading.length for length in reading.lengths]
    return lengths, [score - reading.score for score in reading.scores]
