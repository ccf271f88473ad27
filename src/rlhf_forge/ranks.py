"""Several processes that train one model: who does which rows, and what is put together.

Every process (rank) holds the whole step: the same batch, the same rollout. It runs the forwards
and backwards of its share of the rows; what these give is put together before anything is decided.
So all ranks decide alike, and take the same steps. With one process nothing here does anything.

All functions but `share` and `dealt` wait for the other ranks: each must be called by all of them,
in the same order.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def count() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def share(items: Sequence[T]) -> Sequence[T]:
    """The items that this rank works on: neighbours, so that what belongs together stays so."""
    start, end = (len(items) * at // count() for at in (rank(), rank() + 1))
    return items[start:end]


def dealt(lengths: Sequence[int], to: int) -> list[int]:
    """The rows that a rank works on: as many as any other has, and of like lengths.

    Args:
        lengths: Tokens of each row.
        to: The rank.

    Returns:
        Row numbers in ascending order; each row is on one rank, and a rank may have none.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    # To and fro, so that the first rank does not get the longest row of every round.
    turns = (to, count() - 1 - to)
    starts = range(0, len(order), count())
    places = [start + turns[number % 2] for number, start in enumerate(starts)]
    return sorted(order[place] for place in places if place < len(order))


def summed(tensor: Tensor) -> Tensor:
    """The sum over all ranks; one process gives the tensor itself back."""
    if count() == 1:
        return tensor
    total = tensor.detach().clone()
    distributed.all_reduce(total)
    return total


def summed_numbers(*numbers: float) -> list[float]:
    """The sum over all ranks of each number, in double precision."""
    return _numbers(numbers, distributed.ReduceOp.SUM)


def largest(number: float) -> float:
    """The largest that any rank has."""
    return _numbers((number,), distributed.ReduceOp.MAX)[0]


def any_of(flag: bool) -> bool:
    """Whether it is so on any rank."""
    return largest(float(flag)) > 0


def gathered(items: Sequence[T]) -> list[T]:
    """The items of all ranks, in the order of the ranks; what can be pickled, on the CPU."""
    if count() == 1:
        return list(items)
    found: list[Any] = [None] * count()
    distributed.all_gather_object(found, list(items))
    return [item for part in found for item in part]


def from_first(function: Callable[[], T]) -> T:
    """What the first rank's call returns or raises, on all of them; no other calls it.

    It must be something that can be pickled, on the CPU.
    """
    if count() == 1:
        return function()
    told: list[Any] = [None, None]
    if rank() == 0:
        try:
            told[0] = function()
        except Exception as error:
            told[1] = error
    distributed.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    result: T = told[0]
    return result


def _numbers(numbers: Sequence[float], how: Any) -> list[float]:
    if count() == 1:
        return list(numbers)
    is_nccl = distributed.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if is_nccl else torch.device("cpu")
    together = torch.tensor(numbers, dtype=torch.float64, device=device)
    distributed.all_reduce(together, op=how)
    found: list[float] = together.tolist()
    return found
