"""Sides are drawn anew for every pair; pairs come back; two people can meet on the same ones."""

import random
from collections import Counter
from typing import Any

from rlhf_forge.serve.feedback.pairing import Offer, next_offer
from tests.serve.feedback.casts import cast_all, comparison, undo

ADA, BOB = ("name", "Ada"), ("name", "Bob")


def offer(*bodies: dict[str, Any], who: tuple[str, str] = ADA, shared: bool = False) -> Any:
    return next_offer(cast_all(*bodies), who, shared=shared, rng=random.Random(0))


def test_each_answer_stands_left_about_half_of_the_time() -> None:
    rng = random.Random(0)
    offers = [next_offer([], ADA, shared=False, rng=rng) for _ in range(1000)]
    left = Counter(offer.shown_left for offer in offers if offer is not None)
    assert 450 < left["a"] < 550


def test_the_fifteenth_pair_is_an_earlier_one_with_its_sides_swapped() -> None:
    votes = [comparison(n, shown_left="ab"[n % 2]) for n in range(14)]
    found = offer(*votes)
    assert found.again is not None
    assert found.shown_left != found.again.shown_left
    assert found.again.id not in {f"vote-{n}" for n in range(9, 14)}  # not a recent one
    for other in (votes[:13], [*votes, comparison(14)]):
        assert offer(*other).again is None


def test_a_pair_comes_back_once_and_not_if_it_was_skipped_or_undone() -> None:
    votes = [comparison(0), comparison(1, "skip")]
    votes += [comparison(0, id="again"), comparison(2), undo(2, of=2)]
    votes += [comparison(n) for n in range(3, 14)]
    again = {offer(*votes).again.id for _ in range(20)}
    assert not again & {"vote-0", "vote-1", "vote-2", "again"}


def test_pairs_of_others_are_offered_the_oldest_first_until_there_is_none_left() -> None:
    votes = [comparison(n) for n in range(3)]
    first = offer(*votes, who=BOB, shared=True)
    assert first.again.id == "vote-0"
    seen = comparison(0, id="of Bob".replace(" ", "-"), annotator="Bob")
    assert offer(*votes, seen, who=BOB, shared=True).again.id == "vote-1"
    assert offer(*votes, who=ADA, shared=True) is None
    assert isinstance(offer(*votes, who=ADA), Offer)
