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
    """

    length: int
    wanted: int


@dataclass(frozen=True)
class MicroBatch:
    """Counts that memory and time follow from.

    Attributes:
        tokens: Computed, padding included.
        wanted: Of which something is asked.
        squares: Of all blocks of rows that attention takes together, rows x width^2.
        largest: The same of the largest block.
    """

    tokens: int
    wanted: int
    squares: int
    largest: int

    @classmethod
    def packed(cls, rows: Sequence[Row], *, cuda: bool) -> Self:
        """Rows as `rlhf_forge.backbone.packing` lays them: padded within blocks, on a CPU only."""
        lengths = sorted((row.length for row in rows), reverse=True)
        cuts = block_cuts(lengths, block_cost=BLOCK_COST["cuda" if cuda else "cpu"])
        blocks = [(last - first, lengths[first]) for first, last in pairwise(cuts)]
        return cls._of(blocks, rows)

    @classmethod
    def padded(cls, rows: Sequence[Row]) -> Self:
        """Rows as the stock decoder takes them: all padded to the longest."""
        return cls._of([(len(rows), max(row.length for row in rows))], rows)

    @classmethod
    def _of(cls, blocks: Sequence[tuple[int, int]], rows: Sequence[Row]) -> Self:
        areas = [count * width * width for count, width in blocks]
        return cls(
            tokens=sum(count * width for count, width in blocks),
            wanted=sum(row.wanted for row in rows),
            squares=sum(areas),
            largest=max(areas, default=0),
        )
