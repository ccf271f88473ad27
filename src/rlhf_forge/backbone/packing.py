"""Rows laid one behind the other, so that almost nothing is computed for padding, or twice.

All but attention looks at one token at a time and does not care where rows begin. For attention the
rows of like length lie together, padded to the longest of them: each such block of the packed
tokens is a small batch, seen without moving anything. A row that begins as another does, such as
the second answer to a prompt, is packed from where they part, and its attention sees the prefix in
the other row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from rlhf_forge.backbone.prefixes import shared_prefixes

# What one more block costs, in tokens. On a CPU attention's operations run once more in each layer;
# on a GPU they take rows of any lengths at once, and nothing is padded.
BLOCK_COST = {"cpu": 16, "cuda": 0}


@dataclass(frozen=True)
class Block:
    """Rows of one width that lie behind each other from ``start``.

    Attributes:
        start: Packed place of the first token.
        rows: How many.
        width: Tokens of each.
        reach: Positions of the longest row, its prefix included.
        prefixes: For each row the packed tokens that it goes on from, which are those of a row that
            is whole; none if these rows are whole themselves.
    """

    start: int
    rows: int
    width: int
    reach: int
    prefixes: tuple[slice, ...] = ()

    @property
    def span(self) -> slice:
        """Its packed tokens."""
        return slice(self.start, self.start + self.rows * self.width)

    @property
    def offsets(self) -> list[int]:
        """Position of each row's first token here: tokens of its prefix, if these rows have any."""
        return [prefix.stop - prefix.start for prefix in self.prefixes]

    @cached_property
    def seen(self) -> tuple[Bool[Tensor, "rows reach"], Int[Tensor, "rows reach"]]:
        """Which positions of each row are in its prefix, and where all are packed.

        Behind a row's end stands its last token, which no token of the row sees there. The same for
        all layers.
        """
        columns, offsets = torch.arange(self.reach), torch.tensor(self.offsets)[:, None]
        in_prefix = columns < offsets
        firsts = torch.tensor([prefix.start for prefix in self.prefixes])[:, None]
        starts = self.start + self.width * torch.arange(self.rows)[:, None]
        own = starts + (columns - offsets).clamp(max=self.width - 1)
        return in_prefix, torch.where(in_prefix, firsts + columns, own)


@dataclass(frozen=True)
class Packed:
    """A right-padded batch, packed.

    Attributes:
        blocks: Of which the packed tokens consist; those of whole rows come first.
        source: For each packed token its place in the flattened batch.
        wanted: Packed places of the tokens asked for, in the order of the flattened batch; one
            that rows share is there for each of them.
        shared: Tokens that rows have in another row and are not packed again.
    """

    blocks: tuple[Block, ...]
    source: Int[Tensor, "packed"]
    wanted: Int[Tensor, "wanted"]
    shared: int

    @property
    def reach(self) -> int:
        """Positions that any row has at most."""
        return max((block.reach for block in self.blocks), default=0)


def to_the_left(mask: Bool[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
    """True one to the left of each True: where what is known before a token is read off."""
    return F.pad(mask[:, 1:], (0, 1))


def pack(tokens: Int[Tensor, "batch time"], wanted: Bool[Tensor, "batch time"]) -> Packed:
    """Pack what the ``wanted`` tokens can see: of each row all up to the last of them.

    Rows without a wanted token are left out; what several rows begin with is there once. It is
    planned on the CPU, of which a GPU hears once.
    """
    device = tokens.device
    tokens, wanted = tokens.cpu(), wanted.cpu()
    ends = _ends(wanted)
    origins, shared = shared_prefixes(tokens, ends)
    own = [end - common for end, common in zip(ends, shared, strict=True)]
    starts, blocks = [0] * len(ends), list[Block]()
    sources = [torch.zeros(0, dtype=torch.long)]
    for rows in _groups(own, shared, BLOCK_COST[device.type]):
        start, width = blocks[-1].span.stop if blocks else 0, own[rows[0]]
        prefixes = tuple(
            slice(starts[origins[row]], starts[origins[row]] + shared[row])
            for row in rows
            if shared[row]
        )
        blocks.append(Block(start, len(rows), width, max(ends[row] for row in rows), prefixes))
        for number, row in enumerate(rows):
            starts[row] = start + number * width
        sources.append(_source(rows, [shared[row] for row in rows], width, wanted.shape[1]))
    places = _places(wanted, *(torch.tensor(each) for each in (starts, origins, shared)))
    source = torch.cat(sources)
    return Packed(tuple(blocks), source.to(device), places.to(device), sum(shared))


def _groups(own: Sequence[int], shared: Sequence[int], block_cost: int) -> list[list[int]]:
    """Rows of one block each, the longest first; whole rows before those that go on from them.

    Rows without a token of their own are left out.
    """
    groups = []
    for whole in (True, False):
        rows = [row for row, length in enumerate(own) if length and (shared[row] == 0) is whole]
        rows.sort(key=lambda row: -own[row])
        cuts = block_cuts([own[row] for row in rows], block_cost=block_cost)
        groups += [rows[first:last] for first, last in pairwise(cuts)]
    return groups


def _source(
    rows: Sequence[int], firsts: Sequence[int], width: int, row_width: int
) -> Int[Tensor, "block"]:
    """Places in the flattened batch of a block's tokens, from the first of each row on."""
    columns = torch.tensor(firsts)[:, None] + torch.arange(width)
    # Behind a row's end, which may be that of the batch, any token does.
    columns = columns.clamp_max(row_width - 1)
    return (torch.tensor(rows)[:, None] * row_width + columns).flatten()


def _places(
    wanted: Bool[Tensor, "batch time"], starts: Tensor, origins: Tensor, shared: Tensor
) -> Int[Tensor, "wanted"]:
    """Where the wanted tokens are packed: of a prefix, in the row that is whole."""
    rows, columns = wanted.nonzero(as_tuple=True)
    own = columns - shared[rows]
    return torch.where(own < 0, starts[origins[rows]] + columns, starts[rows] + own)


def _ends(wanted: Tensor) -> list[int]:
    """For each row, one past its last wanted token."""
    width = wanted.shape[1]
    if not width:
        return [0] * len(wanted)
    ends: list[int] = torch.where(wanted, torch.arange(1, width + 1), 0).amax(1).tolist()
    return ends


def block_cuts(lengths: Sequence[int], *, block_cost: int) -> list[int]:
    """Where blocks begin and end, of rows by falling length: least padding and ``block_cost``."""
    costs, ends = [0] * (len(lengths) + 1), [0] * len(lengths)
    for start in reversed(range(len(lengths))):
        costs[start], ends[start] = min(
            ((end - start) * lengths[start] + block_cost + costs[end], end)
            for end in range(start + 1, len(lengths) + 1)
        )
    cuts = [0]
    while cuts[-1] < len(lengths):
        cuts.append(ends[cuts[-1]])
    return cuts
