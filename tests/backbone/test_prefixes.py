import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf_forge.backbone.prefixes import PREFIX_COST, shared_prefixes

ROWS = st.lists(st.lists(st.integers(1, 2), max_size=16), min_size=1, max_size=8)


def padded(rows: list[list[int]]) -> Tensor:
    """Padding holds a token of the rows: it must not count as one."""
    width = max(map(len, rows))
    cells = [row + [1] * (width - len(row)) for row in rows]
    return torch.tensor(cells, dtype=torch.long).view(len(rows), width)


def found(rows: list[list[int]]) -> tuple[list[int], list[int]]:
    return shared_prefixes(padded(rows), list(map(len, rows)))


@given(rows=ROWS)
def test_a_row_goes_on_from_the_very_tokens_it_begins_with_in_a_row_that_is_whole(
    rows: list[list[int]],
) -> None:
    origins, shared = found(rows)
    for row, (origin, count) in enumerate(zip(origins, shared, strict=True)):
        assert origins[origin] == origin
        assert (count == 0) == (origin == row)
        assert count == 0 or count > PREFIX_COST
        assert count <= min(len(rows[row]), len(rows[origin]))
        assert rows[row][:count] == rows[origin][:count]


def common(one: list[int], other: list[int]) -> int:
    return next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )


def most_saved(rows: list[list[int]]) -> int:
    """By trying every choice of whole rows, for what the others then save at best."""
    totals = []
    for choice in range(1, 2 ** len(rows)):
        whole = [row for place, row in enumerate(rows) if choice >> place & 1]
        others = [row for place, row in enumerate(rows) if not choice >> place & 1]
        gains = (max(common(row, first) for first in whole) - PREFIX_COST for row in others)
        totals.append(sum(gain for gain in gains if gain > 0))
    return max(totals)


@given(rows=ROWS)
def test_no_other_choice_of_whole_rows_saves_more(rows: list[list[int]]) -> None:
    assert sum(count - PREFIX_COST for count in found(rows)[1] if count) == most_saved(rows)


def test_a_long_prefix_of_two_rows_is_not_given_up_for_a_short_one_of_all() -> None:
    header = [1] * 8
    rows = [header + [kind] * 20 + [end] for kind, end in ((2, 2), (2, 3), (3, 2), (3, 3))]
    assert found(rows) == ([1, 1, 3, 3], [28, 0, 28, 0])


@pytest.mark.parametrize(("length", "count"), [(PREFIX_COST, 0), (PREFIX_COST + 1, 5)])
def test_a_prefix_that_costs_more_than_it_saves_is_not_shared(length: int, count: int) -> None:
    assert found([[1] * length + [2], [1] * length + [3]])[1] == [count, 0]


def test_a_row_that_another_goes_beyond_goes_on_from_it_and_so_does_its_equal() -> None:
    long = [1, 2, 1, 2, 1, 2, 1, 1]
    assert found([long[:6], long, long]) == ([2, 2, 2], [6, 8, 0])
