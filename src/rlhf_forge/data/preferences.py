"""From answers and what was said of them to records: two with a label, or several ranked."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from rlhf_forge.data.records import BadRecord, Conversation, NoPreference, Pair, Record

Winner = Literal["first", "second"]
TIE, BOTH_BAD = "tie", "both bad"
UNKNOWN_WINNER = "unknown winner"
EQUAL_SCORES, NO_SCORE = "equal scores", "an answer without a score"
NO_VOTE = "no vote"


@dataclass(frozen=True)
class Verdict:
    """What was said of two answers.

    Attributes:
        winner: Which is the better one; None if nobody knows.
        reason: Why it is None.
        margin: As in `Pair`.
        preference: Probability that the winner is the better one.
    """

    winner: Winner | None
    reason: str = UNKNOWN_WINNER
    margin: float | None = None
    preference: float | None = None


def compared(
    prompt: Conversation,
    answers: tuple[Conversation, Conversation],
    verdict: Verdict,
    origin: str,
    *,
    source: str | None = None,
) -> list[Record]:
    """The one record of two answers to a prompt."""
    if verdict.winner is None:
        return [NoPreference(prompt, verdict.reason, origin, {})]
    chosen, rejected = answers if verdict.winner == "first" else answers[::-1]
    return [
        Pair(prompt, chosen, rejected, origin, {}, verdict.margin, verdict.preference, source),
    ]


def signed(strength: float, preference: float | None = None) -> Verdict:
    """Of a strength below 0 where the first answer is better, and above 0 where the second is.

    Args:
        strength: 0 for a tie; its size is the margin.
        preference: Probability that the winner is the better one.
    """
    if strength == 0:
        return Verdict(None, TIE)
    return Verdict("first" if strength < 0 else "second", "", abs(strength), preference)


def counted(votes: Sequence[Winner | None]) -> Verdict:
    """Of several people's votes, None for a tie: the majority, and its share as the preference.

    A tie counts half for either side. One vote alone says nothing of how sure the label is.
    """
    if not votes:
        return Verdict(None, NO_VOTE)
    lead = votes.count("first") - votes.count("second")
    if lead == 0:
        return Verdict(None, TIE)
    share = 0.5 + abs(lead) / (2 * len(votes))
    return Verdict("first" if lead > 0 else "second", "", None, share if len(votes) > 1 else None)


def ranked(
    prompt: Conversation,
    answers: Sequence[Conversation],
    scores: Sequence[float | None],
    origin: str,
    *,
    source: str | None = None,
    margins: bool = True,
) -> list[Record]:
    """All pairs of several answers to a prompt as one group, those of the best answer first.

    Args:
        prompt: What they answer.
        answers: At least two.
        scores: Of each: the higher the better; None if there is none.
        origin: Where the row stands; with more than two answers also the group's name.
        source: As in `Pair`.
        margins: Whether a gap of scores says by how much an answer is better.

    Raises:
        BadRecord: If there are fewer than two answers, or not one score an answer.
    """
    if len(answers) < 2:
        raise BadRecord("fewer than two answers")
    if len(answers) != len(scores):
        raise BadRecord(f"unequal numbers: {len(answers)} answers and {len(scores)} scores")
    group = origin if len(answers) > 2 else None
    order = sorted(zip(answers, scores, strict=True), key=lambda pair: _place(pair[1]))
    records: list[Record] = []
    for (better, high), (worse, low) in combinations(order, 2):
        if high is None or low is None or high == low:
            reason = NO_SCORE if None in {high, low} else EQUAL_SCORES
            records.append(NoPreference(prompt, reason, origin, {}))
        else:
            margin = high - low if margins else None
            records.append(
                Pair(prompt, better, worse, origin, {}, margin, source=source, group=group)
            )
    return records


def _place(score: float | None) -> float:
    """For sorting: the best first, those without a score last."""
    return float("inf") if score is None else -score
