"""What several processes share out and put together."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlhf_forge import ranks
from rlhf_forge.errors import UserError
from rlhf_forge.modules.memory import Cuts, within_memory, within_rows
from rlhf_forge.modules.optimisation import sum_gradients
from tests import several

Lengths = st.lists(st.integers(1, 50), max_size=12)


@given(Lengths, st.integers(1, 5))
def test_each_row_is_dealt_once_and_none_gets_two_more_than_another(
    lengths: list[int], processes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "count", lambda: processes)
        shares = [ranks.dealt(lengths, rank) for rank in range(processes)]
    assert sorted(row for rows in shares for row in rows) == list(range(len(lengths)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    tokens = [sum(lengths[row] for row in rows) for rows in shares]
    assert max(tokens) - min(tokens) <= max(lengths, default=0)


@given(Lengths, st.integers(1, 5))
def test_neighbours_are_shared_out_in_order(items: list[int], processes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "count", lambda: processes)
        shares = []
        for rank in range(processes):
            patch.setattr(ranks, "rank", lambda rank=rank: rank)
            shares.append(ranks.share(items))
    assert [item for share in shares for item in share] == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_has_all_rows_in_their_order_and_waits_for_nobody() -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert ranks.dealt([3, 9, 1], 0) == [0, 1, 2]
    assert ranks.share("abc") == "abc"
    assert ranks.summed(tensor) is tensor
    assert ranks.summed_numbers(0.1, 2) == [0.1, 2]
    assert ranks.largest(0.3) == 0.3
    assert ranks.gathered("ab") == ["a", "b"]
    assert ranks.from_first(lambda: "me") == "me"


# -- two processes ----------------------------------------------------------------------------


def in_two(checks: Callable[[int], None]) -> None:
    assert several.together(_checked, checks) == [0, 0], several.told_by(0) + several.told_by(1)


def _checked(number: int, checks: Callable[[int], None]) -> int:
    several.joined()
    checks(number)
    return 0


def put_together(number: int) -> None:
    assert (ranks.count(), ranks.rank()) == (2, number)
    own = torch.tensor([1.0, 10.0 * number])
    assert ranks.summed(own).tolist() == [2.0, 10.0]
    assert own.tolist() == [1.0, 10.0 * number], "what is summed stays as it was"
    assert ranks.summed_numbers(0.5, number) == [1.0, 1]
    assert ranks.largest(-number) == 0
    assert ranks.any_of(number == 1)
    assert not ranks.any_of(False)
    assert ranks.gathered(["ab"[number]] * (number + 1)) == ["a", "b", "b"]
    assert list(ranks.share([1, 2, 3])) == [[1], [2, 3]][number]


def told_by_the_first(number: int) -> None:
    def mine() -> int:
        assert number == 0, "no other is to call it"
        return 7

    def refusing() -> None:
        raise UserError("no", hint="yes")

    assert ranks.from_first(mine) == 7
    with pytest.raises(UserError, match="no") as caught:
        ranks.from_first(refusing)
    assert caught.value.hint == "yes"


def gradients(number: int) -> None:
    both, second, neither = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    both.grad = torch.full((2, 2), 1.0 + number)
    if number == 1:
        second.grad = torch.full((2, 2), 5.0)
    sum_gradients([both, second, neither])
    assert both.grad is not None
    assert both.grad.tolist() == [[3.0, 3.0]] * 2
    assert second.grad is not None
    assert second.grad.tolist() == [[5.0, 5.0]] * 2
    assert neither.grad is None, "what does not train yet must not count as a step of Adam's"


def memory(number: int) -> None:
    module = _Sizes()

    def attempt(cuts: Cuts, room: int) -> int:
        if number == 1 and max(map(len, cuts)) > room:
            raise torch.OutOfMemoryError
        return len(cuts)

    with _warned(number, "micro_batch_tokens is 2 from now on"):
        within_memory(module, module.cut, partial(attempt, room=3))
    assert module.micro_batch_tokens == 2
    with pytest.raises(UserError, match="one row at a time"):
        within_memory(module, module.cut, partial(attempt, room=0))


def rows(number: int) -> None:
    module = _Sizes()

    def attempt() -> int:
        if number == 1 and module.max_rows > 2:
            raise torch.OutOfMemoryError
        return module.max_rows

    with _warned(number, "max_rows is 2 from now on"):
        assert within_rows(module, 8, attempt) == 2


class _Sizes(nn.Module):
    """A module with eight rows of one token each."""

    def __init__(self) -> None:
        super().__init__()
        self.micro_batch_tokens, self.max_rows = 8, 8

    def cut(self) -> Cuts:
        size = self.micro_batch_tokens
        return [list(range(start, min(start + size, 8))) for start in range(0, 8, size)]


def _warned(number: int, what: str) -> AbstractContextManager[object]:
    """The first process warns; whether the second does is not looked at."""
    return pytest.warns(UserWarning, match=what) if number == 0 else nullcontext()


@pytest.mark.parametrize("checks", [put_together, told_by_the_first, gradients, memory, rows])
def test_two_processes_agree(
    checks: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    in_two(checks)
