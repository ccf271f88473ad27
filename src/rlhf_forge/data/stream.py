"""The endless stream of examples: what stands at a position is a function of (seed, position)."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler
from typing_extensions import override

from rlhf_forge.data.tokenize import Example
from rlhf_forge.errors import UserError
from rlhf_forge.randomness import generator


class Stream(Sampler[list[tuple[int, int]]]):
    """Batches of (stream position, example number), without end.

    Position p holds entry p % n of the permutation drawn for its round p // n. So a run goes on
    exactly where it stopped, mid-round too, given nothing but the count of examples consumed.

    Args:
        size: Number of examples, at least 1.
        batch_size: Rows of one optimiser step. Every process reads all of them, and works on some.
        seed: Of the permutations.
        start: Position of the first row.

    Raises:
        UserError: If ``batch_size`` is not positive.
    """

    def __init__(self, size: int, *, batch_size: int, seed: int, start: int = 0) -> None:
        if batch_size < 1:
            raise UserError(f"data.batch_size: must be 1 or more, got {batch_size}")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.start = start

    @override
    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.start
        while True:
            positions = range(first, first + self.batch_size)
            yield [(position, self.example_at(position)) for position in positions]
            first += self.batch_size

    def example_at(self, position: int) -> int:
        """Number of the example at a stream position."""
        return int(_permutation(self.seed, position // self.size, self.size)[position % self.size])


@lru_cache(maxsize=4)
def _permutation(seed: int, round_number: int, size: int) -> NDArray[np.int64]:
    return generator(seed, "order", round_number).permutation(size)


class Positioned(Dataset[tuple[int, Example]]):
    """Examples under (stream position, number) keys."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    @override
    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Example]:
        position, number = key
        return position, self.examples[number]

    def __len__(self) -> int:
        return len(self.examples)
