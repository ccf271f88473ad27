"""A pair as words: what two records are compared by, whatever their spacing and case."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from rlhf_forge.data.records import Conversation, Pair

Hashes = NDArray[np.uint64]

TRIPLE = 3
# 2^64 over the golden ratio, odd: Knuth's multiplicative hashing.
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
PARTS = tuple(np.uint64(xxh3_64_intdigest(name)) for name in (b"prompt", b"chosen", b"rejected"))


@dataclass(frozen=True)
class Worded:
    """The words of a pair's parts, lower-case; each turn of a prompt begins with its role."""

    prompt: list[bytes]
    chosen: list[bytes]
    rejected: list[bytes]

    @cached_property
    def triples(self) -> tuple[Hashes, Hashes, Hashes]:
        """The word triples of the three parts, sorted, each once."""
        prompt, chosen, rejected = map(triples, (self.prompt, self.chosen, self.rejected))
        return prompt, chosen, rejected


def worded(pair: Pair) -> Worded:
    """The words of a pair."""
    prompt = " ".join(f"\x00{turn['role']} {turn['content']}" for turn in pair.prompt)
    return Worded(split(prompt), split(_said(pair.chosen)), split(_said(pair.rejected)))


def split(text: str) -> list[bytes]:
    """Lower-case words of a text, as UTF-8."""
    plain = " ".join(text.casefold().split())
    return plain.encode("utf-8", "surrogatepass").split(b" ") if plain else []


def digest(words: Sequence[bytes]) -> int:
    """64 bits that stand for the words in their order."""
    return xxh3_64_intdigest(b" ".join(words))


def ids_of(words: Sequence[bytes]) -> Hashes:
    """64 bits for each word."""
    return np.fromiter(map(xxh3_64_intdigest, words), np.uint64, len(words))


def triples(words: Sequence[bytes]) -> Hashes:
    """Each three words in a row as 64 bits, sorted, each once; all as one if they are fewer."""
    if len(words) < TRIPLE:
        return np.array([digest(words)], dtype=np.uint64)
    return distinct(runs(ids_of(words), TRIPLE))


def distinct(hashes: Hashes) -> Hashes:
    """Sorted, each once: as `numpy.unique`, which is slower on so few."""
    ordered = np.sort(hashes)
    kept = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=kept[1:])
    return ordered[kept]


def jaccard(one: Hashes, other: Hashes) -> float:
    """Share of what both have of what either has; both sorted, each hash once, not empty."""
    both = np.sort(np.concatenate([one, other]))
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(both) - shared)


def runs(ids: Hashes, length: int) -> Hashes:
    """64 bits for each so many words in a row; none where there are fewer."""
    number = max(len(ids) - length + 1, 0)
    mixed = np.zeros(number, dtype=np.uint64)
    for start in range(length):
        mixed = (mixed ^ ids[start : start + number]) * MULTIPLIER
        mixed ^= mixed >> np.uint64(32)
    return mixed


def record_triples(words: Worded) -> Hashes:
    """The triples of a whole pair, sorted, each once; those of the parts are kept apart."""
    return np.sort(np.concatenate([t ^ salt for t, salt in zip(words.triples, PARTS, strict=True)]))


def _said(answer: Conversation) -> str:
    return " ".join(turn["content"] for turn in answer)
