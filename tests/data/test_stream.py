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


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_each_batch_row_by_row(world_size: int) -> None:
    shares = [
        list(islice(Stream(10, batch_size=4, seed=0, rank=rank, world_size=world_size), 3))
        for rank in range(world_size)
    ]
    for number, batch in enumerate(batches(3)):
        for rank in range(world_size):
            assert shares[rank][number] == batch[rank::world_size]


def test_fewer_examples_than_rows_of_a_batch_come_round_again_in_it() -> None:
    ((*rows,),) = batches(1, size=3)
    assert sorted(number for _, number in rows[:3]) == [0, 1, 2]
    assert len(rows) == 4


@pytest.mark.parametrize(("batch_size", "world_size"), [(4, 3), (0, 1)])
def test_a_batch_that_the_processes_cannot_share_is_refused(
    batch_size: int, world_size: int
) -> None:
    with pytest.raises(UserError, match=f"{batch_size} rows cannot be shared by {world_size}"):
        Stream(10, batch_size=batch_size, seed=0, world_size=world_size)
