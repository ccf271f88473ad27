"""The endless stream of examples: what stands at a position is a function of (seed, position)."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler
from typing_extensions import override

from rlhf_forge.errors import UserError
from rlhf_forge.randomness import generator


class Stream(Sampler[list[tuple[int, int]]]):
    """Batches of (stream position, example number), without end.

    Position p holds entry p % n of the permutation drawn for its round p // n. So a run goes on
    exactly where it stopped, mid-round too, given nothing but the count of examples consumed.

    Args:
        size: Number of examples, at least 1.
        batch_size: Rows of one optimiser step, over all ranks.
        seed: Of the permutations.
        start: Position of the first row.
        rank: This process; it gets rows rank, rank + world_size, ... of each batch.
        world_size: Number of processes; divides ``batch_size``.

    Raises:
        UserError: If ``batch_size`` is not positive, or no multiple of ``world_size``.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"data.batch_size: {batch_size} rows cannot be shared by {world_size} processes",
                hint=f"set it to a multiple of {world_size}",
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.start, self.rank, self.world_size = start, rank, world_size

    @override
    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.start
        while True:
            positions = range(first + self.rank, first + self.batch_size, self.world_size)
            yield [(position, self.example_at(position)) for position in positions]
            first += self.batch_size

    def example_at(self, position: int) -> int:
        """Number of the example at a stream position."""
        return int(_permutation(self.seed, position // self.size, self.size)[position % self.size])


@lru_cache(maxsize=4)
def _permutation(seed: int, round_number: int, size: int) -> NDArray[np.int64]:
    return generator(seed, "order", round_number).permutation(size)
