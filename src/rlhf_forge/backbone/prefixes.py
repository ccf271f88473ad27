"""Which rows of a batch begin alike, so that what they share is computed once."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise

from jaxtyping import Int
from torch import Tensor

# What a row that goes on from another costs, in tokens: its attention gathers what it shares.
PREFIX_COST = 4


def shared_prefixes(
    tokens: Int[Tensor, "batch time"], ends: Sequence[int]
) -> tuple[list[int], list[int]]:
    """For each row the row that it goes on from, and after how many tokens.

    Some rows are whole and the others go on from one of them, so that most is saved: a long
    beginning that two rows share is not given up for a short one that all do.

    Args:
        tokens: Right-padded.
        ends: Tokens of each row; what stands behind them is not compared.

    Returns:
        Row numbers and tokens; of a whole row its own number and 0.
    """
    ids = tokens.tolist()
    order = sorted(range(len(ends)), key=lambda row: ids[row][: ends[row]])
    alike = _alike(tokens, ends, order)
    origins, shared = list(range(len(ends))), [0] * len(ends)
    for start, whole, stop in _runs(alike):
        behind = zip(range(whole + 1, stop), accumulate(alike[whole:], min), strict=False)
        before = zip(
            range(whole - 1, start - 1, -1), accumulate(alike[:whole][::-1], min), strict=False
        )
        for place, count in chain(behind, before):
            origins[order[place]], shared[order[place]] = order[whole], count
    return origins, shared


def _alike(tokens: Tensor, ends: Sequence[int], order: Sequence[int]) -> list[int]:
    """In how many tokens each row of the order and the next begin alike."""
    rows = tokens[list(order)]
    same = (rows[1:] == rows[:-1]).long().cumprod(1).sum(1).tolist()
    shorter = (min(ends[one], ends[other]) for one, other in pairwise(order))
    return [min(pair) for pair in zip(same, shorter, strict=True)]


def _runs(alike: Sequence[int]) -> list[tuple[int, int, int]]:
    """Runs of the order, each around a whole row: where it starts, the row, and where it stops.

    In the order of their tokens a row is the less like another the further it is away. So what goes
    on from a whole row is a run around it, and the best runs from a place on hold the best runs
    from where the first of them stops.
    """
    count = len(alike) + 1
    saved, wholes, stops = [-1] * count + [0], [0] * count, [0] * count
    # Of choices that save as much the last row is whole: the others may end within it.
    for whole in reversed(range(count)):
        behind = enumerate(_gains(alike[whole:]), start=whole + 1)
        best, stops[whole] = max((gain + saved[stop], stop) for stop, gain in behind)
        for distance, gain in enumerate(_gains(reversed(alike[:whole]))):
            if gain + best > saved[whole - distance]:
                saved[whole - distance], wholes[whole - distance] = gain + best, whole
    runs, start = [], 0
    while start < count:
        runs.append((start, wholes[start], stops[wholes[start]]))
        start = runs[-1][-1]
    return runs


def _gains(alike: Iterable[int]) -> list[int]:
    """Tokens saved by the neighbours on one side of a whole row: by none, the first, two, ..."""
    gains = [0]
    for count in accumulate(alike, min):
        if count <= PREFIX_COST:  # and those further on share no more
            break
        gains.append(gains[-1] + count - PREFIX_COST)
    return gains
