"""Less at once where the GPU's memory is full, and the same result."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_warn

from rlhf_forge import ranks
from rlhf_forge.errors import UserError

T = TypeVar("T")
# For each micro-batch its rows.
Cuts = list[list[int]]


class Sized(Protocol):
    """What a module must have: sizes that may become smaller, and are kept in its checkpoint."""

    micro_batch_tokens: int
    max_rows: int

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""


def within_memory(module: Sized, cut: Callable[[], Cuts], attempt: Callable[[Cuts], T]) -> T:
    """What is made of some rows, micro-batch by micro-batch; of smaller ones if memory runs out.

    A failed attempt counts for nothing: its gradients are dropped, and the next one begins with the
    first micro-batch. As losses are divided by the counts of the whole step, the result is the same
    but for rounding. Where memory runs out on one of several processes, all try again.

    Args:
        module: Its ``micro_batch_tokens`` is halved, for good, until the rows are cut otherwise.
        cut: Gives the rows of each micro-batch by the module's present size.
        attempt: Takes them; waits for no other process.

    Raises:
        UserError: If memory runs out with one row at a time.
    """
    cuts = cut()
    while True:
        done = _tried(partial(attempt, cuts))
        wanted = module.micro_batch_tokens if done else _smaller(module, cut, cuts)
        if not ranks.any_of(not done):
            return done[0]
        module.zero_grad()
        torch.cuda.empty_cache()
        module.micro_batch_tokens = _agreed(wanted, "one row at a time")
        _warn("micro_batch_tokens", module.micro_batch_tokens)
        cuts = cut()


def within_rows(module: Sized, count: int, attempt: Callable[[], T]) -> T:
    """What is generated, ``max_rows`` at once; fewer at once if memory runs out.

    Args:
        module: Its ``max_rows`` is halved, for good.
        count: Of the rows that this process generates.
        attempt: Generates, by the module's present size; waits for no other process.

    Raises:
        UserError: If memory runs out with one row at a time.
    """
    while True:
        done = _tried(attempt)
        wanted = module.max_rows if done else min(module.max_rows, count) // 2
        if not ranks.any_of(not done):
            return done[0]
        torch.cuda.empty_cache()
        module.max_rows = _agreed(wanted, "generating one response at a time")
        _warn("max_rows", module.max_rows)


def within_tokens(module: Sized, attempt: Callable[[], T]) -> T:
    """What is made of rows that the attempt cuts by itself; of smaller parts if memory runs out.

    Args:
        module: Its ``micro_batch_tokens`` is halved, for good.
        attempt: Begins anew each time, by the module's present size; waits for no other process.

    Raises:
        UserError: If memory runs out with one token, and so one row, at a time.
    """
    while True:
        done = _tried(attempt)
        wanted = module.micro_batch_tokens if done else module.micro_batch_tokens // 2
        if not ranks.any_of(not done):
            return done[0]
        torch.cuda.empty_cache()
        module.micro_batch_tokens = _agreed(wanted, "one row at a time")
        _warn("micro_batch_tokens", module.micro_batch_tokens)


def keep_sizes(checkpoint: dict[str, Any], module: Sized) -> None:
    """Write the sizes down: how a step is cut decides the last bits of its result."""
    checkpoint["sizes"] = [module.micro_batch_tokens, module.max_rows]


def restore_sizes(checkpoint: dict[str, Any], module: Sized) -> None:
    """Go on with the sizes that were written down; before there were any they are the config's."""
    if "sizes" in checkpoint:
        module.micro_batch_tokens, module.max_rows = checkpoint["sizes"]


def _tried(attempt: Callable[[], T]) -> list[T]:
    """What is made of an attempt; nothing if memory ran out, and by then that is free again."""
    try:
        return [attempt()]
    except torch.OutOfMemoryError:
        return []  # the error holds what the attempt has allocated


def _smaller(module: Sized, cut: Callable[[], Cuts], cuts: Cuts) -> int:
    """The size at which the rows are cut otherwise; 0 if they cannot be."""
    while cut() == cuts:
        if module.micro_batch_tokens == 1 or max(map(len, cuts)) == 1:
            return 0
        module.micro_batch_tokens //= 2
    return module.micro_batch_tokens


def _agreed(wanted: int, smallest: str) -> int:
    """The least size that any process asks for."""
    size = int(-ranks.largest(-wanted))
    if size == 0:
        raise _full(smallest)
    return size


def _warn(name: str, size: int) -> None:
    rank_zero_warn(
        f"the GPU's memory was full: {name} is {size} from now on; set it so in the config, and no "
        "time is lost in finding out"
    )


def _full(what: str) -> UserError:
    return UserError(
        f"the GPU's memory is full with {what}",
        hint="lower data.max_length or max_new_tokens, set backbone.gradient_checkpointing, or "
        "backbone.precision nf4",
    )
