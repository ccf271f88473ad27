import random
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest

from rlhf_forge.inspection import near as near_module
from rlhf_forge.inspection.near import NEAR, Near, NearIndex
from rlhf_forge.inspection.words import Hashes, distinct, jaccard, runs, split, triples


def hashes(*numbers: int) -> Hashes:
    return np.unique(np.array(numbers, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


@contextmanager
def index_of(sets: list[Hashes]) -> Iterator[NearIndex]:
    with closing(NearIndex()) as index:
        for one in sets:
            index.add(one)
        yield index


def near_earlier(sets: list[Hashes]) -> Near:
    with index_of(sets) as index:
        return index.near_earlier()


def drawn(rng: random.Random, number: int) -> list[Hashes]:
    """Sets of which some are an earlier one with a few members exchanged."""
    sets: list[list[int]] = []
    for _ in range(number):
        if sets and rng.random() < 0.5:
            copy = list(rng.choice(sets))
            for _ in range(rng.randrange(12)):
                copy[rng.randrange(len(copy))] = rng.randrange(10**6)
            sets.append(copy)
        else:
            sets.append([rng.randrange(10**6) for _ in range(rng.randint(20, 60))])
    return [hashes(*members) for members in sets]


def exact(sets: list[Hashes]) -> set[int]:
    return {
        row
        for row in range(len(sets))
        if any(jaccard(sets[row], sets[earlier]) >= NEAR for earlier in range(row))
    }


def test_what_is_near_an_earlier_set_is_found_and_nothing_else() -> None:
    sets = drawn(random.Random(0), 300)
    found = near_earlier(sets)
    truth = exact(sets)
    assert 50 < len(truth) < 250
    assert set(found.rows.tolist()) <= truth
    assert len(found.rows) >= 0.98 * len(truth)
    for row, twin in zip(found.rows.tolist(), found.twins.tolist(), strict=True):
        assert twin < row
        assert jaccard(sets[row], sets[twin]) >= NEAR
    assert found.unsure == 0


def test_only_the_first_sets_are_looked_among_where_that_is_asked() -> None:
    sets = [hashes(*range(20)), hashes(*range(100, 120))]
    sets += [hashes(*range(100, 120)), hashes(*range(300, 320)), hashes(*range(300, 320))]
    with index_of(sets) as index:
        found = index.near_first(2)
        assert (found.rows.tolist(), found.twins.tolist()) == ([2], [1])
        assert index.near_earlier().rows.tolist() == [2, 4]


def test_sets_beyond_reach_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_module, "REACH", 1)
    # All share most members, so all share bands, and none is near another.
    sets = [hashes(*range(40), *range(1000 * n, 1000 * n + 8)) for n in range(1, 8)]
    assert max(jaccard(sets[0], other) for other in sets[1:]) < NEAR
    assert near_earlier(sets).unsure > 0


def test_a_search_that_is_too_long_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_module, "TESTS_PER_SET", 0)
    monkeypatch.setattr(near_module, "SPARE_TESTS", 1)
    sets = [hashes(*range(30))] * 4
    found = near_earlier(sets)
    assert (len(found.rows), found.unsure) == (1, 2)


def test_an_empty_index_has_no_near_sets() -> None:
    assert len(near_earlier([]).rows) == 0


def test_triples_are_those_of_the_words() -> None:
    words = split("The  cat SAT on the\ncat sat on")
    assert words == [b"the", b"cat", b"sat", b"on", b"the", b"cat", b"sat", b"on"]
    # the cat sat, cat sat on, sat on the, on the cat
    assert len(triples(words)) == 4
    assert jaccard(triples(words), triples(split("the cat sat on"))) == pytest.approx(0.5)
    assert len(triples(split("a b"))) == len(triples([])) == 1


def test_runs_depend_on_order_and_on_each_word() -> None:
    ids = hashes(1, 2, 3)
    assert len(runs(ids, 3)) == 1
    assert runs(ids, 3) != runs(ids[::-1], 3)
    assert len(runs(ids, 4)) == 0


def test_distinct_is_what_numpy_makes() -> None:
    given = np.array([3, 1, 3, 2, 1], dtype=np.uint64)
    assert distinct(given).tolist() == np.unique(given).tolist()
    assert len(distinct(given[:0])) == 0
