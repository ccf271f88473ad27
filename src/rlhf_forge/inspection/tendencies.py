"""What predicts the labels though it should not, and how the sources differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_forge.evaluation.statistics import Share, share_of
from rlhf_forge.inspection.ledger import ENDS, STYLES, Columns

DECIDES = 0.6
"""Share of labels from which one thing alone is said to decide them."""
LEAST_PAIRS = 30
LACKS = 0.5
"""A source whose answers end well less than half as often as the others' lacks their end."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Tendency:
    """How often the chosen answer is the one with something, where just one of the two has it.

    Attributes:
        name: What it is: longer, refuses, ...
        share: Of the chosen answers; equal lengths count half.
    """

    name: str
    share: Share

    @property
    def decides(self) -> bool:
        """Whether it predicts the labels, this way or the other."""
        enough = self.share.n >= LEAST_PAIRS
        return enough and (self.share.low > DECIDES or self.share.high < 1 - DECIDES)


@dataclass(frozen=True)
class SourceRow:
    """One source in numbers; lengths are characters of an answer."""

    name: str
    pairs: int
    held_out: int
    longer_wins: Share
    chosen_length: float
    rejected_length: float
    refusals: float
    whole_sentences: float


def tendencies(columns: Columns) -> list[Tendency]:
    """Length first, then the styles, over all pairs to train on."""
    rows = columns.is_pair & ~columns.held_out
    return [Tendency("longer", longer_wins(columns, rows)), *(_style(columns, s) for s in STYLES)]


def longer_wins(columns: Columns, rows: Mask) -> Share:
    """Accuracy of whoever always prefers the longer answer; equal lengths count half."""
    chosen, rejected = columns.chosen_length[rows], columns.rejected_length[rows]
    return share_of(((chosen > rejected) + 0.5 * (chosen == rejected)).tolist())


def source_rows(columns: Columns, names: Sequence[str]) -> list[SourceRow]:
    """All sources, the largest first."""
    found = []
    for number, name in enumerate(names):
        rows = columns.is_pair & (columns.source == number)
        if rows.any():
            found.append(_source_row(columns, rows, name))
    return sorted(found, key=lambda row: -row.pairs)


def without_end(columns: Columns, names: Sequence[str]) -> list[tuple[str, str, Mask]]:
    """Sources whose answers do not end as the others' do.

    Returns:
        For each the source, the end that it lacks, and its pairs with an answer that lacks it.
    """
    found = []
    for end in ENDS:
        ended = columns.has(end, chosen=True) & columns.has(end, chosen=False)
        for number, name in enumerate(names):
            rows = columns.is_pair & (columns.source == number)
            others = columns.is_pair & (columns.source != number)
            if min(rows.sum(), others.sum()) < LEAST_PAIRS:
                continue
            here, there = (share_of(ended[r].astype(float).tolist()) for r in (rows, others))
            if here.high < LACKS * there.low:
                found.append((name, end, rows & ~ended))
    return found


def _style(columns: Columns, name: str) -> Tendency:
    chosen, rejected = (columns.has(name, chosen=side) for side in (True, False))
    one = columns.is_pair & ~columns.held_out & (chosen != rejected)
    return Tendency(name, share_of(chosen[one].astype(float).tolist()))


def _source_row(columns: Columns, rows: Mask, name: str) -> SourceRow:
    def both(trait: str) -> float:
        return float(np.mean([columns.has(trait, chosen=s)[rows].mean() for s in (True, False)]))

    return SourceRow(
        name,
        int(rows.sum()),
        int((rows & columns.held_out).sum()),
        longer_wins(columns, rows),
        float(columns.chosen_length[rows].mean()),
        float(columns.rejected_length[rows].mean()),
        both("refuses"),
        both("whole sentence"),
    )
