"""Rows laid one behind the other, so that almost nothing is computed for padding.

All but attention looks at one token at a time and does not care where rows begin. For attention the
rows of like length lie together, padded to the longest of them: each such block of the packed
tokens is a small batch, seen without moving anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

# What one more block costs, in tokens: attention's operations are launched once more in each layer.
BLOCK_COST = 16


@dataclass(frozen=True)
class Block:
    """Rows of one width that lie behind each other from ``start``."""

    start: int
    rows: int
    width: int

    @property
    def span(self) -> slice:
        """Its packed tokens."""
        return slice(self.start, self.start + self.rows * self.width)


@dataclass(frozen=True)
class Packed:
    """A right-padded batch, packed.

    Attributes:
        blocks: Of which the packed tokens consist.
        source: For each packed token its place in the flattened batch.
        positions: For each packed token its place in its row.
        wanted: Packed places of the tokens asked for, in the order of the flattened batch.
    """

    blocks: tuple[Block, ...]
    source: Int[Tensor, "packed"]
    positions: Int[Tensor, "packed"]
    wanted: Int[Tensor, "wanted"]


def to_the_left(mask: Bool[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
    """True one to the left of each True: where what is known before a token is read off."""
    return F.pad(mask[:, 1:], (0, 1))


def pack(wanted: Bool[Tensor, "batch time"]) -> Packed:
    """Pack what the ``wanted`` tokens can see: of each row all up to the last of them.

    Rows without a wanted token are left out.
    """
    width = wanted.shape[1]
    index = torch.arange(1, width + 1, device=wanted.device)
    ends: list[int] = torch.where(wanted, index, 0).amax(1).tolist() if width else []
    order = sorted((row for row, end in enumerate(ends) if end), key=lambda row: -ends[row])
    cuts = block_cuts([ends[row] for row in order])
    blocks, sources, positions, start = [], [], [], 0
    starts = torch.zeros(len(wanted), dtype=torch.long)
    for first, last in pairwise(cuts):
        block = Block(start, last - first, ends[order[first]])
        rows, places = torch.tensor(order[first:last]), torch.arange(block.width)
        sources.append((rows[:, None] * width + places).flatten())
        positions.append(places.repeat(block.rows))
        starts[rows] = start + block.width * torch.arange(block.rows)
        blocks.append(block)
        start = block.span.stop
    rows, columns = wanted.nonzero(as_tuple=True)
    empty = torch.zeros(0, dtype=torch.long)
    return Packed(
        tuple(blocks),
        torch.cat([empty, *sources]),
        torch.cat([empty, *positions]),
        starts[rows] + columns,
    )


def block_cuts(lengths: Sequence[int]) -> list[int]:
    """Where blocks begin and end, of rows by falling length: least padding and `BLOCK_COST`."""
    costs, ends = [0] * (len(lengths) + 1), [0] * len(lengths)
    for start in reversed(range(len(lengths))):
        costs[start], ends[start] = min(
            ((end - start) * lengths[start] + BLOCK_COST + costs[end], end)
            for end in range(start + 1, len(lengths) + 1)
        )
    cuts = [0]
    while cuts[-1] < len(lengths):
        cuts.append(ends[cuts[-1]])
    return cuts
