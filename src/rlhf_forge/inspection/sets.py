"""What is only seen over all records: duplicates, contradictions, prompts on both sides."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_forge.inspection.ledger import Columns
from rlhf_forge.inspection.words import digest

Numbers = NDArray[np.int64]
NONE = -1
EMPTY = np.uint64(digest([]))
"""What an absent prompt is hashed to; having none is no leak."""


@dataclass(frozen=True)
class Matches:
    """Records that break a rule together with another one.

    Attributes:
        rows: Numbers of the records, ascending.
        twins: The other one of each.
    """

    rows: Numbers
    twins: Numbers


def duplicates(columns: Columns) -> Matches:
    """Pairs whose prompt, chosen and rejected answer an earlier one has."""
    rows = np.flatnonzero(columns.is_pair)
    parts = (columns.prompt, columns.chosen, columns.rejected)
    return _earlier(rows, mixed(*(part[rows] for part in parts)))


def contradictions(columns: Columns) -> Matches:
    """Pairs whose prompt and answers another one has with the opposite label."""
    rows = np.flatnonzero(columns.is_pair & (columns.chosen != columns.rejected))
    prompt, chosen, rejected = (
        part[rows] for part in (columns.prompt, columns.chosen, columns.rejected)
    )
    ours, theirs = mixed(prompt, chosen, rejected), mixed(prompt, rejected, chosen)
    twins = _first_with(ours, theirs)
    found = twins != NONE
    return Matches(rows[found], rows[twins[found]])


def leaked_prompts(columns: Columns) -> Matches:
    """Pairs to train on whose prompt is held out too."""
    prompted = columns.is_pair & (columns.prompt != EMPTY)
    train = np.flatnonzero(prompted & ~columns.held_out)
    held_out = np.flatnonzero(prompted & columns.held_out)
    twins = _first_with(columns.prompt[held_out], columns.prompt[train])
    found = twins != NONE
    return Matches(train[found], held_out[twins[found]])


def repeated_prompts(columns: Columns, known: Numbers) -> Matches:
    """Pairs whose prompt an earlier one of their side has, with other answers.

    Args:
        columns: Of all records.
        known: Those whose answers stand elsewhere too.
    """
    free = columns.is_pair & (columns.prompt != EMPTY)
    free[known] = False
    rows = np.flatnonzero(free)
    return _earlier(rows, columns.prompt[rows] + columns.held_out[rows])


def _earlier(rows: Numbers, keys: NDArray[np.uint64]) -> Matches:
    """Rows whose key an earlier row has, with the first that has it."""
    order = np.argsort(keys, kind="stable")
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = keys[order[1:]] != keys[order[:-1]]
    heads = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    later = np.flatnonzero(~begins)
    found = Matches(rows[order[later]], rows[order[heads[later]]])
    ascending = np.argsort(found.rows, kind="stable")
    return Matches(found.rows[ascending], found.twins[ascending])


def _first_with(keys: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> Numbers:
    """For each wanted key the first place that has it, or NONE."""
    if not len(keys):
        return np.full(len(wanted), NONE)
    order = np.argsort(keys, kind="stable")
    places = np.searchsorted(keys[order], wanted).clip(max=len(keys) - 1)
    return np.where(keys[order[places]] == wanted, order[places], NONE)


def mixed(*parts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 bits that stand for the parts in their order."""
    mixed = np.zeros(len(parts[0]), dtype=np.uint64)
    for part in parts:
        mixed = (mixed ^ part) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    return mixed
