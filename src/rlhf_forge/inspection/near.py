"""Near duplicates among a million sets in bounded memory: MinHash, then the exact truth."""

import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from rlhf_forge.inspection.words import Hashes, jaccard

Numbers = NDArray[np.int64]
Hashes32 = NDArray[np.uint32]

NEAR = 0.8
"""Jaccard similarity from which two sets are near duplicates."""
BANDS, ROWS = 20, 6
"""A pair at 0.8 shares a band with probability 1 - (1 - 0.8^6)^20 = 0.998; one at 0.5 with 0.27."""
SEED = 42
BLOCK = 1024
TESTS_PER_SET, SPARE_TESTS = 10, 1_000_000
"""Exact comparisons at most, so that a file of nothing but near duplicates ends too."""
REACH = 64
"""Earlier sets of a bucket that one is compared with."""


@dataclass(frozen=True)
class Near:
    """Near duplicates of earlier sets.

    Attributes:
        rows: Their numbers, ascending.
        twins: For each an earlier one that it is near.
        unsure: How many sets were not compared with all their candidates, nor found to be near.
    """

    rows: Numbers
    twins: Numbers
    unsure: int


@dataclass(frozen=True)
class Candidates:
    """Sets that share a band.

    Attributes:
        beyond_reach: Sets with more candidates than they are compared with.
        pairs: Two numbers each, the later first.
    """

    beyond_reach: Numbers
    pairs: Iterator[tuple[int, int]]


class NearIndex:
    """Sets of 64-bit hashes, added one by one, and which of them are near an earlier one.

    In memory each set takes 80 bytes of band hashes and its place in a temporary file, which holds
    the sets themselves and is gone after `close`.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._ends = array("Q", [0])
        self._bands = array("I")
        self._pending: list[Hashes] = []

    def __len__(self) -> int:
        return len(self._ends) - 1

    def close(self) -> None:
        """Give the temporary file back."""
        self._file.close()

    def add(self, hashes: Hashes) -> None:
        """Add a set: sorted, each hash once, at least one."""
        self._file.write(hashes.tobytes())
        self._ends.append(self._ends[-1] + len(hashes))
        self._pending.append(hashes)
        if len(self._pending) == BLOCK:
            self._sign()

    def near_earlier(self) -> Near:
        """Each set that is near an earlier one, with one such."""
        return self._search(_earlier)

    def near_first(self, number: int) -> Near:
        """Each set behind the first ``number`` that is near one of these."""
        return self._search(partial(_among_first, number=number))

    def _search(self, candidates: Callable[[Hashes32], Candidates]) -> Near:
        self._sign()
        bands = np.frombuffer(self._bands, dtype=np.uint32).reshape(-1, BANDS)
        twins = np.full(len(bands), -1, dtype=np.int64)
        unsure = np.zeros(len(bands), dtype=bool)
        left = TESTS_PER_SET * len(bands) + SPARE_TESTS
        for number in range(BANDS):
            found = candidates(np.ascontiguousarray(bands[:, number]))
            unsure[found.beyond_reach] = True
            for row, twin in found.pairs:
                if twins[row] >= 0:
                    continue
                left -= 1
                if left < 0:
                    unsure[row] = True
                elif jaccard(self._read(row), self._read(twin)) >= NEAR:
                    twins[row] = twin
        rows = np.flatnonzero(twins >= 0)
        return Near(rows, twins[rows], int(np.count_nonzero(unsure & (twins < 0))))

    def _read(self, number: int) -> Hashes:
        start, end = self._ends[number], self._ends[number + 1]
        self._file.seek(8 * start)
        return np.frombuffer(self._file.read(8 * (end - start)), dtype=np.uint64)

    def _sign(self) -> None:
        """Band hashes of the sets that have none yet."""
        if not self._pending:
            return
        offsets = np.cumsum([0, *map(len, self._pending)], dtype=np.uint64)
        flat = np.concatenate(self._pending)
        signed = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, BANDS * ROWS, SEED)
        digests = np.array(signed.to_rows(), dtype=np.uint64).reshape(-1, BANDS, ROWS)
        self._bands.frombytes(_mixed(digests).tobytes())
        self._pending = []


def _mixed(digests: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """One 32-bit hash for each band; what collides is told apart by the exact comparison."""
    mixed = np.zeros(digests.shape[:2], dtype=np.uint64)
    for row in range(digests.shape[2]):
        mixed = (mixed ^ digests[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _earlier(hashes: Hashes32) -> Candidates:
    """Each set with those of its bucket before it, the nearest in order first."""
    order, heads = _buckets(hashes)
    depth = np.arange(len(order)) - heads

    def pairs() -> Iterator[tuple[int, int]]:
        places = np.flatnonzero(depth)
        for reach in range(1, REACH + 1):
            places = places[depth[places] >= reach]
            yield from zip(order[places].tolist(), order[places - reach].tolist(), strict=True)

    return Candidates(order[depth > REACH], pairs())


def _among_first(hashes: Hashes32, number: int) -> Candidates:
    """Each set behind the first ``number`` with those of its bucket that are among these."""
    order, heads = _buckets(hashes)
    firsts = np.bincount(heads[order < number], minlength=len(order))
    behind = np.flatnonzero(order >= number)

    def pairs() -> Iterator[tuple[int, int]]:
        places = behind
        for reach in range(REACH):
            places = places[firsts[heads[places]] > reach]
            earlier = order[heads[places] + reach]
            yield from zip(order[places].tolist(), earlier.tolist(), strict=True)

    return Candidates(order[behind[firsts[heads[behind]] > REACH]], pairs())


def _buckets(hashes: Hashes32) -> tuple[Numbers, Numbers]:
    """Numbers sorted by hash, and for each place that where its bucket begins."""
    order = np.argsort(hashes, kind="stable")
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = hashes[order[1:]] != hashes[order[:-1]]
    return order, np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
