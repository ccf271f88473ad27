"""Numbers that are kept of every record: some 60 bytes each, so that a million fit in memory."""

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_forge.data.records import Pair
from rlhf_forge.inspection.record_checks import END_TOKENS, text_of, without_end_token
from rlhf_forge.inspection.words import Worded, digest

MOST_SOURCES, OTHERS = 1000, "(all others)"
"""Sources that are told apart: a column of the name may hold anything."""
PLACE = re.compile(r"(.*?)(\d+)", re.DOTALL)
OPENERS = ("sure", "certainly", "of course", "great question", "absolutely")
REFUSALS = (
    *("i can't", "i cannot", "i'm sorry", "i am sorry", "sorry,", "i won't", "i'm not able"),
    *("i am not able", "i'm unable", "i am unable", "i don't feel comfortable", "as an ai"),
)
MARKDOWN = re.compile(r"\*\*|```|^(?:#{1,6} |[-*] |\d+\. )", re.MULTILINE)

Trait = Callable[[str], bool]
STYLES: dict[str, Trait] = {
    "refuses": lambda text: text[:80].lower().replace("’", "'").startswith(REFUSALS),
    "has markdown": lambda text: MARKDOWN.search(text) is not None,
    "begins with a stock phrase": lambda text: text[:20].lower().startswith(OPENERS),
}
"""What an answer may have that a label might be given for."""
ENDS: dict[str, Trait] = {
    "end token": lambda text: text.rstrip().endswith(END_TOKENS),
    "whole sentence": lambda text: not (without_end_token(text).rstrip() or "a")[-1:].isalnum(),
}
"""How an answer may end."""
TRAITS: dict[str, Trait] = STYLES | ENDS


@dataclass(frozen=True)
class Columns:
    """The ledger as arrays, one entry a record; hashes and lengths are 0 where it is no pair."""

    held_out: NDArray[np.bool_]
    is_pair: NDArray[np.bool_]
    source: NDArray[np.uint16]
    prompt: NDArray[np.uint64]
    chosen: NDArray[np.uint64]
    rejected: NDArray[np.uint64]
    chosen_length: NDArray[np.uint32]
    rejected_length: NDArray[np.uint32]
    traits: NDArray[np.uint16]

    def has(self, trait: str, *, chosen: bool) -> NDArray[np.bool_]:
        """Whether each record's answer has a trait."""
        found: NDArray[np.bool_] = (self.traits >> _bit(trait, chosen=chosen)) & 1 == 1
        return found


class Ledger:
    """Grows record by record; records are known by their number from 0."""

    def __init__(self) -> None:
        self._sources: dict[str, int] = {}
        self._places: dict[str, int] = {}
        self._place, self._line = array("H"), array("I")
        self._flags, self._source = array("B"), array("H")
        self._hashes = [array("Q") for _ in range(3)]
        self._lengths = [array("I") for _ in range(2)]
        self._traits = array("H")

    def __len__(self) -> int:
        return len(self._line)

    def add_pair(self, origin: str, pair: Pair, words: Worded, source: str, held_out: bool) -> None:
        """Enter a pair."""
        chosen, rejected = text_of(pair.chosen), text_of(pair.rejected)
        parts = (words.prompt, words.chosen, words.rejected)
        mask = _mask(rejected) | _mask(chosen) << 1
        self._add(origin, [digest(w) for w in parts], [len(chosen), len(rejected)], mask)
        if source not in self._sources and len(self._sources) == MOST_SOURCES:
            source = OTHERS
        self._source.append(self._sources.setdefault(source, len(self._sources)))
        self._flags.append(1 + 2 * held_out)

    def add_other(self, origin: str, held_out: bool) -> None:
        """Enter a record that is no pair."""
        self._add(origin, [0, 0, 0], [0, 0], 0)
        self._source.append(0)
        self._flags.append(2 * held_out)

    @property
    def sources(self) -> list[str]:
        """Names of the sources, by their number."""
        return list(self._sources)

    def origin(self, number: int) -> str:
        """Where a record stands."""
        return f"{list(self._places)[self._place[number]]}{self._line[number]}"

    def columns(self) -> Columns:
        """What was entered, as arrays."""
        flags = np.frombuffer(self._flags, np.uint8)
        prompt, chosen, rejected = (np.frombuffer(h, np.uint64) for h in self._hashes)
        chosen_length, rejected_length = (np.frombuffer(n, np.uint32) for n in self._lengths)
        return Columns(
            held_out=flags & 2 == 2,
            is_pair=flags & 1 == 1,
            source=np.frombuffer(self._source, np.uint16),
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            chosen_length=chosen_length,
            rejected_length=rejected_length,
            traits=np.frombuffer(self._traits, np.uint16),
        )

    def _add(self, origin: str, hashes: list[int], lengths: list[int], traits: int) -> None:
        match = PLACE.fullmatch(origin)
        place, line = match.groups() if match else (origin, "0")
        self._place.append(self._places.setdefault(place, len(self._places)))
        self._line.append(int(line))
        for column, value in zip((*self._hashes, *self._lengths), (*hashes, *lengths), strict=True):
            column.append(value)
        self._traits.append(traits)


def _mask(answer: str) -> int:
    """The traits of an answer, in every other bit."""
    return sum(has(answer) << 2 * place for place, has in enumerate(TRAITS.values()))


def _bit(trait: str, *, chosen: bool) -> int:
    return 2 * list(TRAITS).index(trait) + chosen
