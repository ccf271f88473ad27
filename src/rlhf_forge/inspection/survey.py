"""One pass over all records: what each breaks by itself, and what is kept of it for the rest."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from rlhf_forge.data.records import Pair
from rlhf_forge.inspection.as_trained import AsTrained
from rlhf_forge.inspection.ledger import Ledger
from rlhf_forge.inspection.near import NearIndex
from rlhf_forge.inspection.reading import Reading
from rlhf_forge.inspection.record_checks import Checks, checks_of
from rlhf_forge.inspection.words import Worded, digest, record_triples, worded
from rlhf_forge.randomness import generator

MOST_CASES = 10_000
"""Pairs that the label model looks at, drawn evenly from all."""
MOST_DETAILS = 100


@dataclass
class Broken:
    """Records that break one rule by themselves.

    Attributes:
        rows: Their numbers.
        details: How many for which detail; of the rest none is counted by itself.
    """

    rows: list[int] = field(default_factory=list)
    details: Counter[str] = field(default_factory=Counter)

    def add(self, row: int, detail: str) -> None:
        """One more."""
        self.rows.append(row)
        if detail and (detail in self.details or len(self.details) < MOST_DETAILS):
            self.details[detail] += 1


class Survey:
    """Takes records one by one; those that are held out come first.

    Args:
        as_trained: The checks that need the run's tokenizer; None without them.
        seed: Of the sample that the label model looks at.
    """

    def __init__(self, as_trained: AsTrained | None, *, seed: int) -> None:
        self.ledger = Ledger()
        self.records = NearIndex()
        self.record_rows: list[int] = []
        self.prompts = NearIndex()
        self.prompt_rows: list[int] = []
        self.held_out_prompts = 0
        self.broken: dict[str, Broken] = {}
        self.cases: list[tuple[int, Pair]] = []
        self._as_trained = as_trained
        self._seen: set[int] = set()
        self._trained = 0
        self._draw = generator(seed, "cases")

    def close(self) -> None:
        """Give the temporary files back."""
        self.records.close()
        self.prompts.close()

    def take(self, readings: Iterable[Reading], *, held_out: bool) -> int:
        """Read all of a source; returns how many records it had."""
        before = len(self.ledger)
        for reading in readings:
            if reading.pair is None:
                self._take_other(reading, held_out=held_out)
            else:
                self._take_pair(reading, reading.pair, held_out=held_out)
        return len(self.ledger) - before

    def _take_other(self, reading: Reading, *, held_out: bool) -> None:
        self.ledger.add_other(reading.origin, held_out)
        self._note({reading.code: reading.reason})

    def _take_pair(self, reading: Reading, pair: Pair, *, held_out: bool) -> None:
        words = worded(pair)
        self.ledger.add_pair(reading.origin, pair, words, pair.source or "", held_out)
        row = len(self.ledger) - 1
        told = checks_of(pair, words, reading.fields)
        if self._as_trained is not None and not {"PREF201", "PREF203"} & told.keys():
            told |= self._as_trained.checks_of(pair)
        self._note(told)
        self.records.add(record_triples(words))
        self.record_rows.append(row)
        self._take_prompt(words, row, held_out=held_out)
        if not held_out and not {"PREF201", "PREF203"} & told.keys():
            self._draw_case(row, pair)

    def _note(self, told: Checks) -> None:
        for code, detail in told.items():
            self.broken.setdefault(code, Broken()).add(len(self.ledger) - 1, detail)

    def _take_prompt(self, words: Worded, row: int, *, held_out: bool) -> None:
        """Each prompt of a side once."""
        key = 2 * digest(words.prompt) + held_out
        if not words.prompt or key in self._seen:
            return
        self._seen.add(key)
        self.prompts.add(words.triples[0])
        self.prompt_rows.append(row)
        self.held_out_prompts += held_out

    def _draw_case(self, row: int, pair: Pair) -> None:
        """Keep the pair with the probability that makes all pairs so far equally likely."""
        self._trained += 1
        if len(self.cases) < MOST_CASES:
            self.cases.append((row, replace(pair, fields={})))
        elif (place := int(self._draw.integers(self._trained))) < MOST_CASES:
            self.cases[place] = (row, replace(pair, fields={}))
