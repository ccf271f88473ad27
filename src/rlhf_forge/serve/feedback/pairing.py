"""Which pair a person judges next, and on which side each answer stands."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_forge.serve.feedback.votes import Letter, Vote, standing

# One pair in so many is one that was judged before, with its sides swapped.
ONE_IN = 15
# A pair that comes back sooner is still remembered.
LEAST_BETWEEN = 5


@dataclass(frozen=True)
class Offer:
    """What to show next.

    Attributes:
        shown_left: The answer on the left.
        again: An earlier vote whose answers are to be shown; none: new answers.
    """

    shown_left: Letter
    again: Vote | None = None


def next_offer(
    votes: Sequence[Vote], who: tuple[str, str], *, shared: bool, rng: random.Random
) -> Offer | None:
    """Draw the next pair for a person.

    Args:
        votes: All votes, the oldest first.
        who: The person, as `Vote.who`.
        shared: Show pairs that others have judged, rather than new ones.
        rng: Draws the sides and the pairs.

    Returns:
        None if ``shared`` and there is none left that others have judged and this person has not.
    """
    compared = [vote for vote in standing(votes) if vote.kind == "comparison"]
    mine = [vote for vote in compared if vote.who == who]
    if back := _to_repeat(mine, rng):
        return Offer("b" if back.shown_left == "a" else "a", back)
    shown_left: Letter = rng.choice(("a", "b"))
    if not shared:
        return Offer(shown_left)
    seen = {vote.pair for vote in mine}
    others = {vote.pair: vote for vote in compared if vote.pair not in seen}
    # The oldest first, so that two people who join late still meet on the same pairs.
    return Offer(shown_left, next(iter(others.values()))) if others else None


def _to_repeat(mine: Sequence[Vote], rng: random.Random) -> Vote | None:
    if len(mine) % ONE_IN != ONE_IN - 1:
        return None
    times: dict[str, list[Vote]] = {}
    for vote in mine:
        times.setdefault(vote.pair, []).append(vote)
    recent = {vote.pair for vote in mine[-LEAST_BETWEEN:]}
    once = [
        looks[0]
        for pair, looks in times.items()
        if len(looks) == 1 and pair not in recent and looks[0].choice != "skip"
    ]
    return rng.choice(once) if once else None
