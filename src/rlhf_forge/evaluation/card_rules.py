"""When a check of the report card is good, doubtful or bad; docs/reward-card.md says why.

Every threshold stands here, once. With few pairs an interval is wide, and what it leaves open
counts against the model where the card vouches for it (`accuracy`, spoilt answers), and for neither
side elsewhere: there a check is bad only if the whole interval is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlhf_forge.evaluation.probes import PADDED, SPOILT
from rlhf_forge.evaluation.reliability import Reliability
from rlhf_forge.evaluation.statistics import LEAST_RANKED, Estimate, Share

Verdict = Literal["good", "doubtful", "bad"]
ORDER: tuple[Verdict, ...] = ("good", "doubtful", "bad")

CHANCE = 0.5
MOST_EXCESS, BAD_EXCESS = 0.1, 0.2
MOST_CORRELATION, BAD_CORRELATION = 0.5, 0.8
MOST_ERROR = 0.05
LEAST_SPOILT = 0.9
LEAST_PADDED, BAD_PADDED, BAD_GAIN = 0.5, 0.25, 0.25


@dataclass(frozen=True)
class Rule:
    """What a check wants, in words.

    Attributes:
        good: When it is good.
        bad: When it is bad; "never" if it only ever casts doubt. Else it is doubtful.
    """

    good: str
    bad: str


_ABOVE_CHANCE = Rule(f"the interval lies above {CHANCE}", f"the interval lies below {CHANCE}")
_SPOILT = Rule(
    f"{LEAST_SPOILT} or more, and the interval lies above {CHANCE}",
    f"the interval reaches {CHANCE}",
)
_PADDED = Rule(
    f"{LEAST_PADDED} or more",
    f"the interval lies below {BAD_PADDED}, and the mean gain is {BAD_GAIN} or more",
)
RULES: dict[str, Rule] = {
    "accuracy": Rule(
        f"the interval lies above {CHANCE} and above the majority baseline",
        f"the interval reaches {CHANCE}, or lies below the majority baseline",
    ),
    "shorter_chosen": _ABOVE_CHANCE,
    "longer_chosen": _ABOVE_CHANCE,
    "longer_preferred": Rule(
        f"within {MOST_EXCESS} of the labels",
        f"the interval lies further than {BAD_EXCESS} from the labels",
    ),
    "score_length": Rule(
        f"within {MOST_CORRELATION} of 0",
        f"the interval lies further than {BAD_CORRELATION} from 0",
    ),
    "sources": Rule(
        f"the interval of every source lies above {CHANCE}",
        f"the interval of a source lies below {CHANCE}",
    ),
    "calibration": Rule(f"{MOST_ERROR} or less, or not shown to be too sure of itself", "never"),
    **dict.fromkeys(SPOILT, _SPOILT),
    **dict.fromkeys(PADDED, _PADDED),
}


@dataclass(frozen=True)
class Check:
    """One line of the card.

    Attributes:
        name: A key of `RULES`.
        value: What was measured.
        low: Lower end of its 95 % interval; None where that is not known.
        high: Upper end.
        n: Number of cases.
        verdict: good, doubtful or bad.
        threshold: The rule that decided.
        reason: Why, in words.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    verdict: Verdict
    threshold: str
    reason: str

    @property
    def interval(self) -> str:
        """The interval, to be read; a dash where there is none."""
        return "-" if self.low is None else f"{self.low:.3f} to {self.high:.3f}"


def worst(checks: Sequence[Check]) -> Verdict:
    """The worst verdict; good if there is no check."""
    return max((check.verdict for check in checks), key=ORDER.index, default="good")


def accuracy_check(found: Share, majority: float) -> Check:
    """Share of labels that the model sides with, against guessing and against counting tokens."""
    if found.n == 0:
        return _check("accuracy", found, "bad", "no pair is held out, so nothing is known")
    if found.high < CHANCE:
        return _check("accuracy", found, "bad", "it sides against the labels")
    if found.low <= CHANCE:
        reason = f"{found.n} pairs do not tell it from guessing ({CHANCE})"
        return _check("accuracy", found, "bad", reason)
    if found.high < majority:
        reason = f"going by length alone is right more often ({majority:.3f})"
        return _check("accuracy", found, "bad", reason)
    if found.low <= majority:
        reason = f"{found.n} pairs do not tell it from going by length alone ({majority:.3f})"
        return _check("accuracy", found, "doubtful", reason)
    reason = f"better than guessing ({CHANCE}) and than length alone ({majority:.3f})"
    return _check("accuracy", found, "good", reason)


def side_check(name: str, found: Share) -> Check:
    """Accuracy where the chosen answer is the shorter one, or the longer one."""
    side = name.partition("_")[0]
    if found.n == 0:
        return _check(name, found, "doubtful", f"no pair whose chosen answer is the {side} one")
    if found.high < CHANCE:
        reason = f"where people chose the {side} answer it mostly takes the other"
        return _check(name, found, "bad", reason)
    if found.low <= CHANCE:
        return _check(name, found, "doubtful", f"{found.n} such pairs do not tell it from guessing")
    return _check(name, found, "good", f"it can prefer the {side} answer")


def excess_check(found: Estimate, labels: float) -> Check:
    """How much more often than the labels the model prefers the longer answer."""
    told = f"the longer answer wins {labels + found.value:.0%} by score, {labels:.0%} by label"
    if found.n == 0:
        return _check("longer_preferred", found, "doubtful", "no pair of unlike lengths")
    if abs(found.value) <= MOST_EXCESS:
        return _check("longer_preferred", found, "good", told)
    verdict: Verdict = "bad" if _beyond(found, BAD_EXCESS) else "doubtful"
    return _check("longer_preferred", found, verdict, told)


def correlation_check(found: Estimate) -> Check:
    """Spearman's correlation of score and length over all answers."""
    if found.n < LEAST_RANKED:
        return _check("score_length", found, "doubtful", f"{found.n} answers tell nothing")
    if abs(found.value) <= MOST_CORRELATION:
        return _check("score_length", found, "good", "length does not rule the score")
    towards = "longer" if found.value > 0 else "shorter"
    verdict: Verdict = "bad" if _beyond(found, BAD_CORRELATION) else "doubtful"
    return _check("score_length", found, verdict, f"the {towards} an answer, the higher its score")


def sources_check(found: dict[str, Share]) -> Check:
    """Accuracy of the source that the model is worst on."""
    name, share = min(found.items(), key=lambda item: (item[1].value, item[0]))
    wrong = [source for source, part in found.items() if part.high < CHANCE]
    open_ = [source for source, part in found.items() if part.low <= CHANCE]
    if wrong:
        return _check("sources", share, "bad", f"against the labels on {_listed(wrong)}")
    if open_:
        return _check("sources", share, "doubtful", f"not told from guessing on {_listed(open_)}")
    return _check("sources", share, "good", f"lowest on {_listed([name])}")


def calibration_check(found: Reliability, n: int) -> Check:
    """Expected calibration error: how far sureness is from being right."""
    verdict, reason = _calibration(found, n)
    point = Estimate(found.error, found.error, found.error, n)
    told = f"{reason}; temperature {found.temperature:.2g} fits best"
    return replace(_check("calibration", point, verdict, told), low=None, high=None)


def _calibration(found: Reliability, n: int) -> tuple[Verdict, str]:
    if found.error <= MOST_ERROR:
        return "good", "as often right as it is sure"
    if not found.off:
        return "good", f"{n} pairs do not tell it from a calibrated model"
    if found.temperature < 1:
        return "good", "right more often than it is sure, which scaling mends"
    return "doubtful", "too sure of itself"


def spoilt_check(name: str, found: Share, gain: float) -> Check:
    """Share of demonstrations that beat an answer nobody may prefer."""
    told = f"it scores {gain:+.2f} beside the demonstration, on average"
    if found.n == 0:
        return _check(name, found, "doubtful", "could not be asked")
    if found.high < CHANCE:
        return _check(name, found, "bad", f"{told}: PPO would find that out")
    if found.low <= CHANCE:
        return _check(name, found, "bad", f"{told}: not told from a demonstration")
    verdict: Verdict = "doubtful" if found.value < LEAST_SPOILT else "good"
    return _check(name, found, verdict, told)


def padded_check(name: str, found: Share, gain: float) -> Check:
    """Share of demonstrations that beat themselves with something behind them."""
    told = f"it adds {gain:+.2f} to the demonstration's score, on average"
    if found.n == 0:
        return _check(name, found, "doubtful", "could not be asked")
    if found.value >= LEAST_PADDED:
        return _check(name, found, "good", told)
    if found.high < BAD_PADDED and gain >= BAD_GAIN:
        return _check(name, found, "bad", f"{told}: PPO would put it behind every answer")
    return _check(name, found, "doubtful", told)


def _beyond(found: Estimate, bound: float) -> bool:
    return found.low > bound or found.high < -bound


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more


def _check(name: str, found: Share | Estimate, verdict: Verdict, reason: str) -> Check:
    rule = RULES[name]
    threshold = f"good: {rule.good}" if verdict != "bad" else f"bad: {rule.bad}"
    return Check(name, found.value, found.low, found.high, found.n, verdict, threshold, reason)
