"""Rows to time: lengths and targets as in the run, of random tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, takewhile
from typing import Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf_forge.planning.demand import Item
from rlhf_forge.planning.micro_batch import MicroBatch
from rlhf_forge.planning.setup import Setup

# More in one micro-batch is no faster, token by token.
TOKENS = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Sample:
    """A micro-batch of a run, right-padded.

    Attributes:
        tokens: Of prompt and response.
        targets: True where something is asked: the last tokens of each row.
        computed: Tokens that a forward computes, padding counted.
    """

    tokens: Int[Tensor, "rows time"]
    targets: Bool[Tensor, "rows time"]
    computed: int

    @classmethod
    def of(cls, setup: Setup, step: Sequence[Item], device: torch.device) -> Self:
        """The first rows of a step, as many as one micro-batch takes and `TOKENS` allow."""
        items = _first(setup, step, min(TOKENS[device.type], setup.micro_batch_tokens))
        rows = [*chain.from_iterable(items)]
        packs = setup.packs
        part = MicroBatch.packed(rows, cuda=setup.cuda) if packs else MicroBatch.padded(rows)
        texts = [*chain.from_iterable(_texts(item, setup.shape.vocab) for item in items)]
        tokens = pad_sequence(texts, batch_first=True)
        ends = torch.tensor([len(text) for text in texts])[:, None]
        # The first token of a row has nothing that it follows from.
        starts = (ends - torch.tensor([row.wanted for row in rows])[:, None]).clamp_min(1)
        places = torch.arange(tokens.shape[1])
        targets = (places >= starts) & (places < ends)
        return cls(tokens.to(device), targets.to(device), part.tokens)


def _first(setup: Setup, step: Sequence[Item], most: int) -> Sequence[Item]:
    sums = accumulate(sum(row.length for row in item) for item in step[: setup.minibatch_size])
    return step[: max(1, len([*takewhile(lambda tokens: tokens <= most, sums)]))]


def _texts(item: Item, vocab: int) -> list[Tensor]:
    """Token ids of rows that begin as the first does, each as far as its prefix goes."""
    own = [torch.randint(vocab, (row.length,)) for row in item]
    rows = zip(item, own, strict=True)
    return [torch.cat([own[0][: row.prefix], text]) for row, text in rows]
