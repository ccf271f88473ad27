"""What makes the members of an ensemble differ: where they start, and what they learn from."""

from collections.abc import Sequence

import torch

from rlhf_forge.data.collate import PairBatch
from rlhf_forge.randomness import generator


def member_seeds(seed: int, number: int) -> list[int]:
    """A seed for each member; the first has the run's own, as a single model has."""
    drawn = (int(generator(seed, "member", place).integers(2**31)) for place in range(1, number))
    return [seed, *drawn]


def as_drawn(batch: PairBatch, seed: int, member: int) -> PairBatch:
    """The batch as a member learns from it: a pair counts as often as it is drawn."""
    counts = torch.tensor(bootstrap_counts(seed, member, batch.positions.tolist()))
    weight = counts.to(batch.tokens.device, torch.float32)
    return batch._replace(weight=weight if batch.weight is None else weight * batch.weight)


def bootstrap_counts(seed: int, member: int, positions: Sequence[int]) -> list[int]:
    """How often a member learns from the example at each stream position.

    Poisson of mean 1: over many examples the bootstrap, and each number is a function of (seed,
    member, position) alone, whatever batch, micro-batch or process the example is in.

    Source: Oza & Russell 2001, "Online Bagging and Boosting", section 2.
    """
    return [int(generator(seed, "bootstrap", member, at).poisson(1.0)) for at in positions]
