"""Padding rows into batches, and cutting a step's batch into micro-batches.

Masks come from lengths: a pad id may be any token, also the one that ends a sequence.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_forge import ranks
from rlhf_forge.data.tokenize import DemonstrationExample, PairExample, PromptExample

PAD = 0
# What one more forward and backward costs, in tokens: launches, and unpacking a 4-bit base.
CUT_COST = 128


class SequenceBatch(NamedTuple):
    """Right-padded conversations.

    Attributes:
        tokens: Padding holds 0.
        mask: True on real tokens.
        targets: True on tokens that are learnt.
        positions: Place of each row in the endless stream.
    """

    tokens: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]
    targets: Bool[Tensor, "batch time"]
    positions: Int[Tensor, "batch"]


class PairBatch(NamedTuple):
    """Right-padded pairs: all chosen rows, then all rejected ones in the same order.

    Attributes:
        tokens: Prompt and answer; padding holds 0.
        mask: True on real tokens.
        response: True on the answer's tokens.
        positions: Place of each pair in the endless stream.
        margin: By how much chosen was preferred, in the data's unit; 0 where it is not known. None
            if it is known of none; the same holds of the two below.
        preference: Probability that chosen is the better one; 1 where it is not known.
        weight: What each pair counts for; 1 on average over the data.
    """

    tokens: Int[Tensor, "two_batch time"]
    mask: Bool[Tensor, "two_batch time"]
    response: Bool[Tensor, "two_batch time"]
    positions: Int[Tensor, "batch"]
    margin: Float[Tensor, "batch"] | None = None
    preference: Float[Tensor, "batch"] | None = None
    weight: Float[Tensor, "batch"] | None = None


class PromptBatch(NamedTuple):
    """Left-padded prompts.

    Attributes:
        tokens: Padding, on the left, holds 0.
        mask: True on real tokens.
        positions: Place of each row in the endless stream.
    """

    tokens: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]
    positions: Int[Tensor, "batch"]


Batch = TypeVar("Batch", SequenceBatch, PairBatch, PromptBatch)


def collate_demonstrations(
    rows: Sequence[tuple[int, DemonstrationExample]],
) -> SequenceBatch:
    """Batch of (stream position, example) rows."""
    tokens, mask = _pad([example.tokens for _, example in rows])
    targets, _ = _pad([example.targets for _, example in rows])
    return SequenceBatch(tokens, mask, targets.bool(), _positions(rows))


def collate_pairs(rows: Sequence[tuple[int, PairExample]]) -> PairBatch:
    """Batch of (stream position, example) rows."""
    tokens, mask = _pad([e.chosen for _, e in rows] + [e.rejected for _, e in rows])
    response, _ = _pad(
        [e.chosen_response for _, e in rows] + [e.rejected_response for _, e in rows]
    )
    examples = [example for _, example in rows]
    return PairBatch(
        tokens,
        mask,
        response.bool(),
        _positions(rows),
        margin=_labels([e.record.margin for e in examples], unknown=0.0),
        preference=_labels([e.record.preference for e in examples], unknown=1.0),
        weight=_labels([None if e.weight == 1.0 else e.weight for e in examples], unknown=1.0),
    )


def collate_prompts(rows: Sequence[tuple[int, PromptExample]]) -> PromptBatch:
    """Batch of (stream position, example) rows."""
    flipped, mask = _pad([example.tokens[::-1] for _, example in rows])
    return PromptBatch(flipped.flip(-1), mask.flip(-1), _positions(rows))


def pair_tokens(batch: PairBatch, *, pads: bool) -> list[int]:
    """Tokens that both sides of each pair cost together, in one forward.

    Args:
        batch: The pairs.
        pads: Whether each side is padded to the longer one. If not, what both begin with, their
            prompt, is computed once.
    """
    lengths = batch.mask.sum(-1).view(2, -1)
    if pads:
        doubled: list[int] = (2 * lengths.amax(0)).tolist()
        return doubled
    chosen, rejected = batch.tokens.view(2, *batch.positions.shape, -1)
    real = batch.mask.view(2, *chosen.shape).all(0)
    common = ((chosen == rejected) & real).long().cumprod(-1).sum(-1)
    together: list[int] = (lengths.sum(0) - common).tolist()
    return together


def micro_batches(lengths: Sequence[int], *, max_tokens: int, pads: bool = True) -> list[list[int]]:
    """Cut a step's rows into micro-batches of at most ``max_tokens`` padded tokens.

    What is cut may be larger than a row and stay together: a pair, the responses to a prompt.
    Longest rows first, neighbours of like length together, cut where the padding saved outweighs
    another forward: no other cuts of the sorted rows cost less in padded tokens and `CUT_COST`. A
    row longer than the budget is alone.

    Args:
        lengths: Tokens of each row.
        max_tokens: Rows times the longest of them, at most.
        pads: Whether padding costs time. Where rows are packed it costs none, and they are cut only
            to keep to ``max_tokens``.

    Returns:
        Row numbers; each row once; the same for the same lengths.

    Raises:
        ValueError: If ``max_tokens`` is not positive.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be 1 or more, got {max_tokens}")
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    # From the end: what the rows from `start` on cost at least, and where the first cut then ends.
    costs, ends = [0] * (len(order) + 1), [0] * len(order)
    for start in reversed(range(len(order))):
        longest = max(lengths[order[start]], 1)
        last = min(start + max(1, max_tokens // longest), len(order))
        costs[start], ends[start] = min(
            (pads * (end - start) * longest + CUT_COST + costs[end], end)
            for end in range(start + 1, last + 1)
        )
    cuts, start = [], 0
    while start < len(order):
        cuts.append(order[start : ends[start]])
        start = ends[start]
    return cuts


def own_micro_batches(
    lengths: Sequence[int], *, max_tokens: int, pads: bool = True
) -> list[list[int]]:
    """Those of the rows that this process works on; with one process, of all.

    Returns:
        Row numbers of the whole step; none if there are fewer rows than processes.
    """
    return _micro_batches_of(ranks.rank(), lengths, max_tokens, pads)


def all_micro_batches(
    lengths: Sequence[int], *, max_tokens: int, pads: bool = True
) -> list[list[int]]:
    """Those of all processes, one process after the other."""
    each = (_micro_batches_of(rank, lengths, max_tokens, pads) for rank in range(ranks.count()))
    return [cut for cuts in each for cut in cuts]


def _micro_batches_of(
    rank: int, lengths: Sequence[int], max_tokens: int, pads: bool
) -> list[list[int]]:
    rows = ranks.dealt(lengths, rank)
    cuts = micro_batches([lengths[row] for row in rows], max_tokens=max_tokens, pads=pads)
    return [[rows[place] for place in cut] for cut in cuts]


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """These rows of a batch (pairs, for a `PairBatch`), cut to the longest of them."""
    index = torch.tensor(rows, dtype=torch.long, device=batch.tokens.device)
    positions = batch.positions[index]
    labels: list[Tensor | None] = []
    if isinstance(batch, PairBatch):
        labels = [None if part is None else part[index] for part in batch[4:]]
        index = torch.cat([index, index + len(batch.positions)])
    columns = batch.mask[index].any(0)
    tokens, mask = batch.tokens[index][:, columns], batch.mask[index][:, columns]
    if isinstance(batch, PromptBatch):
        return type(batch)(tokens, mask, positions)
    return type(batch)(tokens, mask, batch[2][index][:, columns], positions, *labels)


def _pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    width = max((len(row) for row in rows), default=0)
    values = torch.full((len(rows), width), PAD, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        values[number, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[number, : len(row)] = True
    return values, mask


def _labels(values: Sequence[float | None], *, unknown: float) -> Tensor | None:
    if all(value is None for value in values):
        return None
    return torch.tensor([unknown if value is None else value for value in values])


def _positions(rows: Sequence[tuple[int, object]]) -> Tensor:
    return torch.tensor([position for position, _ in rows], dtype=torch.long)
