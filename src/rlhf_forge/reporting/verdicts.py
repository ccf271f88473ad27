"""What a rule finds in a run."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["good", "doubtful", "bad"]
WORST_FIRST: tuple[Verdict, ...] = ("bad", "doubtful", "good")


@dataclass(frozen=True)
class Look:
    """Something to look at.

    Attributes:
        rule: A key of `rlhf_forge.reporting.looks.RULES`.
        verdict: good, doubtful or bad.
        text: What is the case, with its numbers.
    """

    rule: str
    verdict: Verdict
    text: str
