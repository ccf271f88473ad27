"""What one forward and backward works on: counts of tokens, as rows are really cut and packed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from rlhf_forge.backbone.packing import BLOCK_COST, block_cuts


@dataclass(frozen=True)
class Row:
    """One row of a step.

    Attributes:
        length: Tokens, up to the last that anything is asked of.
        wanted: Tokens of which something is asked: a log-probability, a value, a score.
        prefix: Tokens before them that lie in another row; attention sees them all the same.
    """

    length: int
    wanted: int
    prefix: int = 0


@dataclass(frozen=True)
class MicroBatch:
    """Counts that memory and time follow from.

    Attributes:
        tokens: Computed, padding included.
        wanted: Of which something is asked.
        keys: That attention sees, of each row those of its prefix too.
        squares: Of all blocks of rows that attention takes together, rows x queries x keys.
        largest: The same of the largest block.
    """

    tokens: int
    wanted: int
    keys: int
    squares: int
    largest: int

    @classmethod
    def packed(cls, rows: Sequence[Row], *, cuda: bool) -> Self:
        """Rows as `rlhf_forge.backbone.packing` lays them: padded within blocks, on a CPU only."""
        cost = BLOCK_COST["cuda" if cuda else "cpu"]
        blocks: list[list[Row]] = []
        for goes_on in (False, True):
            alike = [row for row in rows if (row.prefix > 0) is goes_on]
            alike.sort(key=lambda row: row.length, reverse=True)
            cuts = block_cuts([row.length for row in alike], block_cost=cost)
            blocks += [alike[first:last] for first, last in pairwise(cuts)]
        return cls._of(blocks)

    @classmethod
    def padded(cls, rows: Sequence[Row]) -> Self:
        """Rows as the stock decoder takes them: all padded to the longest."""
        return cls._of([rows])

    @classmethod
    def _of(cls, blocks: Sequence[Sequence[Row]]) -> Self:
        """Each block padded to its longest row, and to the longest with its prefix."""
        sizes = [
            (len(rows), max(r.length for r in rows), max(r.prefix + r.length for r in rows))
            for rows in blocks
        ]
        areas = [count * width * reach for count, width, reach in sizes]
        return cls(
            tokens=sum(count * width for count, width, _ in sizes),
            wanted=sum(row.wanted for rows in blocks for row in rows),
            keys=sum(count * reach for count, _, reach in sizes),
            squares=sum(areas),
            largest=max(areas, default=0),
        )
