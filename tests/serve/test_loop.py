"""What the worker makes of orders, and of faults in the middle of them."""

from queue import SimpleQueue

import pytest
import torch

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import score
from rlhf_forge.generation.engine import Engine, Entry, Request
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.generation.scheduler import Scheduler
from rlhf_forge.serve.jobs import Cancel, Failed, Generate, News, Order, Progress, Score, Scored
from rlhf_forge.serve.loop import Shift, work
from tests import tiny

ROWS = [([5, 6, 7, 8], [False, False, True, True]), ([9, 10], [False, True])]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny.four_roles(tiny.open_tiny())


class Told:
    """A shift and all that it tells."""

    def __init__(self, backbone: Backbone) -> None:
        self.news: list[News] = []
        self.engine = Engine(backbone, slots=2, eos_ids=[])
        self.shift = Shift(Scheduler(self.engine, prefill_tokens=64), backbone, self.news.append)

    def of(self, kind: type[News]) -> list[News]:
        return [one for one in self.news if isinstance(one, kind)]


def rows(*names: str, length: int = 3) -> Generate:
    return Generate(
        [
            Entry(name, Request([5, 6, 7], "policy", (0, at)), Sampling(max_new_tokens=length))
            for at, name in enumerate(names)
        ]
    )


def test_a_turn_tells_the_tokens_of_all_rows_at_once(backbone: Backbone) -> None:
    told = Told(backbone)
    told.shift.take(rows("a", "b", "c"))
    told.shift.turn()
    [progress] = told.news
    assert isinstance(progress, Progress)
    assert [one.name for one in progress.drawn] == ["a", "b"]
    assert (progress.running, progress.waiting, progress.held) == (2, 1, 6)


def test_scores_are_those_of_training_and_come_between_tokens(backbone: Backbone) -> None:
    told = Told(backbone)
    told.shift.take(rows("a", length=4))
    told.shift.take(Score("s", "reward", ROWS))
    while told.shift.busy:
        told.shift.turn()
    kinds = [type(one).__name__ for one in told.news]
    assert kinds == ["Progress", "Progress", "Scored", "Progress", "Progress"]
    [scored] = told.of(Scored)
    assert isinstance(scored, Scored)
    for (tokens, targets), got in zip(ROWS, scored.scores, strict=True):
        assert got == score(backbone, torch.tensor([tokens]), torch.tensor([targets])).item()


def test_who_is_cancelled_is_told_nothing_and_the_rest_goes_on(backbone: Backbone) -> None:
    told = Told(backbone)
    for order in (rows("a", "b"), Score("s", "reward", ROWS), Cancel(["a", "s"])):
        told.shift.take(order)
    while told.shift.busy:
        told.shift.turn()
    drawn = [one.name for news in told.of(Progress) for one in getattr(news, "drawn", [])]
    assert drawn == ["b", "b", "b"]
    assert not told.of(Scored)


def test_a_step_that_fails_fails_what_ran_and_nothing_after(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(backbone)
    told.shift.take(rows("a", "b", "c"))
    with monkeypatch.context() as patch:
        patch.setattr(told.engine, "step", lambda: 1 / 0)
        told.shift.turn()
        assert told.news == [Failed(["a", "b", "c"], faults=1), Progress([], 0, 0, 0)]
        told.shift.take(rows("d"))
        told.shift.turn()
        assert told.of(Failed)[-1] == Failed(["d"], faults=2)
    told.shift.take(rows("e"))
    told.shift.turn()
    assert told.shift.faults == 0
    assert isinstance(told.news[-1], Progress)
    assert [one.name for one in told.news[-1].drawn] == ["e"]


def test_a_prompt_or_an_answer_that_cannot_be_read_fails_alone(backbone: Backbone) -> None:
    told = Told(backbone)
    told.shift.take(Generate([Entry("bad", Request([10**6], "policy", (0,)), Sampling())]))
    told.shift.take(rows("a"))
    told.shift.take(Score("s", "reward", [([10**6, 5], [False, True])]))
    told.shift.turn()
    assert told.of(Failed) == [Failed(["bad"]), Failed(["s"])]
    assert [one.name for one in getattr(told.of(Progress)[0], "drawn", [])] == ["a"]


def test_all_orders_that_came_in_between_are_taken_before_a_turn(backbone: Backbone) -> None:
    told = Told(backbone)
    inbox: SimpleQueue[Order] = SimpleQueue()
    for order in (rows("a"), rows("b"), Cancel(["a"])):
        inbox.put(order)
    work(told.shift, inbox)
    assert inbox.empty()
    assert isinstance(told.news[-1], Progress)
    assert [one.name for one in told.news[-1].drawn] == ["b"]
