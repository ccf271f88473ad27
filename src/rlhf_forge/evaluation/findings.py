"""What the readings of a run tell, in words: what was seen, and not what will come.

The thresholds of the judge's findings were chosen on five runs of PPO and shown on others;
docs/overoptimisation.md says how often they were in time, and how often wrong. The others are round
numbers: a finding of theirs says where to look, and nothing acts on it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlhf_forge.evaluation.readings import (
    Reading,
    best_by_judge,
    change,
    frontier_of,
    kept_by_judge,
    rise_at_equal_length,
    spread,
)

# The judge's fall from its best reading: standard errors of the paired difference, of which the
# best of many readings is some above the truth; and standard deviations of its scores at the start.
FALL_SE = 2.0
LEAST_FALL = 0.1
# The judge has not risen for so many readings, while the reward has by so many standard errors.
PATIENCE = 2
RISE_SE = 2.0
# Of the reward's rise at least this share is not there at equal length, where the length has
# changed by at least this share.
SHARE_OF_LENGTH = 0.5
LEAST_CHANGE_OF_LENGTH = 0.1
# Above the first reading: share of 4-grams that a response has said before.
MORE_REPETITION = 0.1
# Of the first reading's distinct bigrams.
LEAST_DISTINCT = 0.5
# Below the first reading: share of responses that end by themselves.
LESS_EOS = 0.1

JUDGE_FELL, JUDGE_STALLED = "judge-fell", "judge-stalled"
# What an action follows.
OVER_OPTIMISED = frozenset({JUDGE_FELL, JUDGE_STALLED})


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        kind: Which rule found it.
        severity: How many times its threshold, rounded down, 1 or more.
        text: What was seen.
    """

    kind: str
    severity: int
    text: str


def findings_in(readings: Sequence[Reading]) -> list[Finding]:
    """What the last reading tells beside those before it; nothing of a single one.

    Args:
        readings: Of one run on the same prompts, the first where PPO starts, all with a judge or
            none.
    """
    if len(readings) < 2:
        return []
    first, last = readings[0], readings[-1]
    found = [*_of_length(first, last), *_of_texts(first, last)]
    if last.judged:
        found = [*_of_judge(readings), *_of_frontier(readings), *found]
    return found


def _of_judge(readings: Sequence[Reading]) -> Iterator[Finding]:
    first, best, last = readings[0], best_by_judge(readings), readings[-1]
    judge, reward = change(best.judged, last.judged), change(best.scores, last.scores)
    threshold = max(FALL_SE * judge.se, LEAST_FALL * spread(first.judged))
    if not -judge.value > threshold:
        yield from _of_stall(readings)
        return
    moved = (
        f"while the reward's rose by {reward.value:.2f}: the policy has gained with the reward and "
        "lost with the judge"
        if reward.value > 0
        else f"and the reward's by {abs(reward.value):.2f}: the policy has lost with both"
    )
    yield Finding(
        JUDGE_FELL,
        int(-judge.value / threshold) if threshold else 1,
        f"the judge's score has fallen by {-judge.value:.2f} (± {judge.se:.2f}) since iteration "
        f"{best.iteration}, {moved}; KL went from {_nats(best.kl)} to {_nats(last.kl)} nats",
    )


def _of_stall(readings: Sequence[Reading]) -> Iterator[Finding]:
    kept, last = kept_by_judge(readings), readings[-1]
    since = len(readings) - 1 - readings.index(kept)
    reward = change(kept.scores, last.scores)
    if since >= PATIENCE and reward.value > RISE_SE * reward.se:
        yield Finding(
            JUDGE_STALLED,
            since // PATIENCE,
            f"the reward has risen by {reward.value:.2f} (± {reward.se:.2f}) since iteration "
            f"{kept.iteration}, and in none of the {since} readings since has the judge's score: "
            f"what the policy gains, only the reward sees; KL went from {_nats(kept.kl)} to "
            f"{_nats(last.kl)} nats",
        )


def _of_frontier(readings: Sequence[Reading]) -> Iterator[Finding]:
    curve, last = frontier_of(readings), readings[-1]
    if curve is None or curve.peak is None or not last.kl > curve.peak.high:
        return
    peak = curve.peak
    yield Finding(
        "beyond-peak",
        1,
        f"Gao et al.'s curve, fitted to the judge's {len(readings)} readings, has its peak at a KL "
        f"of {_nats(peak.kl)} nats (95 % interval {_nats(peak.low)} to {_nats(peak.high)}), and "
        f"this policy is at {_nats(last.kl)}",
    )


def _of_length(first: Reading, last: Reading) -> Iterator[Finding]:
    rise, longer = change(first.scores, last.scores), last.length / first.length - 1
    equal = rise_at_equal_length(first, last)
    gained = rise.value > 2 * rise.se and equal < (1 - SHARE_OF_LENGTH) * rise.value
    if gained and abs(longer) > LEAST_CHANGE_OF_LENGTH:
        yield Finding(
            "length",
            1,
            f"the reward has risen by {rise.value:.2f} since the start, and by {equal:.2f} at "
            f"equal length: responses went from {first.length:.0f} to {last.length:.0f} tokens",
        )


def _of_texts(first: Reading, last: Reading) -> Iterator[Finding]:
    if last.repetition > first.repetition + MORE_REPETITION:
        yield Finding(
            "repetition",
            1,
            f"{last.repetition:.0%} of a response's 4-grams were said before in it, at the start "
            f"{first.repetition:.0%}",
        )
    if last.distinct < LEAST_DISTINCT * first.distinct:
        yield Finding(
            "sameness",
            1,
            f"{last.distinct:.0%} of all bigrams are distinct, at the start {first.distinct:.0%}: "
            "the responses are more and more alike",
        )
    if last.eos < first.eos - LESS_EOS:
        yield Finding(
            "endless",
            1,
            f"{last.eos:.0%} of the responses ended by themselves, at the start {first.eos:.0%}",
        )


def _nats(kl: float) -> str:
    """To a tenth; an estimate just below 0 is 0 then."""
    return f"{round(kl, 1) + 0.0:.1f}"
