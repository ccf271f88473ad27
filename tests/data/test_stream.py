from itertools import islice

import pytest

from rlhf_forge.data.stream import Stream
from rlhf_forge.errors import UserError

Rows = list[tuple[int, int]]


def batches(number: int, *, start: int = 0, seed: int = 0, size: int = 10) -> list[Rows]:
    return list(islice(Stream(size, batch_size=4, seed=seed, start=start), number))


def test_each_round_holds_every_example_once() -> None:
    rows = [row for batch in batches(5) for row in batch]
    assert [position for position, _ in rows] == list(range(20))
    assert sorted(number for _, number in rows[:10]) == list(range(10))
    assert sorted(number for _, number in rows[10:]) == list(range(10))


def test_rounds_differ_in_order() -> None:
    rows = [number for batch in batches(5) for _, number in batch]
    assert rows[:10] != rows[10:]


def test_a_stream_started_later_goes_on_as_the_whole_one() -> None:
    assert batches(5, start=12) == batches(8)[3:]


def test_the_order_is_a_function_of_the_seed() -> None:
    assert batches(3) == batches(3)
    assert batches(3) != batches(3, seed=1)


def test_fewer_examples_than_rows_of_a_batch_come_round_again_in_it() -> None:
    ((*rows,),) = batches(1, size=3)
    assert sorted(number for _, number in rows[:3]) == [0, 1, 2]
    assert len(rows) == 4


def test_a_batch_without_rows_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.batch_size: must be 1 or more, got 0"):
        Stream(10, batch_size=0, seed=0)
