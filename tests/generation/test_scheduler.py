"""Who waits and who runs."""

import pytest

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.generation.engine import Engine, Entry, Request
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.generation.scheduler import Scheduler
from tests import tiny


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    backbone = tiny.open_tiny()
    backbone.add_bare_role("base")
    return backbone


def entries(*lengths: int, prompt: int = 4) -> list[Entry]:
    """A row for each length, named by its place."""
    return [
        Entry(at, Request([3 + at] * prompt, "base", (0, at)), Sampling(max_new_tokens=length))
        for at, length in enumerate(lengths)
    ]


def turns(scheduler: Scheduler) -> list[list[int]]:
    """Names that drew a token, turn by turn."""
    found = []
    while scheduler.busy:
        found.append(sorted(one.name for one in scheduler.turn().drawn))
    return found


def test_first_come_first_served_into_the_slots_that_are_free(backbone: Backbone) -> None:
    scheduler = Scheduler(Engine(backbone, slots=2, eos_ids=[]), prefill_tokens=100)
    scheduler.submit(entries(3, 1, 2, 1))
    assert turns(scheduler) == [[0, 1], [0, 2], [0, 2], [3]]


def test_prompts_are_read_a_bounded_number_of_tokens_at_a_time(backbone: Backbone) -> None:
    scheduler = Scheduler(Engine(backbone, slots=4, eos_ids=[]), prefill_tokens=8)
    scheduler.submit(entries(2, 2, 2))
    assert turns(scheduler) == [[0, 1], [0, 1, 2], [2]]


def test_a_prompt_longer_than_the_bound_is_read_alone(backbone: Backbone) -> None:
    scheduler = Scheduler(Engine(backbone, slots=4, eos_ids=[]), prefill_tokens=3)
    scheduler.submit(entries(1, 1))
    assert turns(scheduler) == [[0], [1]]


def test_answers_to_one_prompt_count_it_once(backbone: Backbone) -> None:
    scheduler = Scheduler(Engine(backbone, slots=4, eos_ids=[]), prefill_tokens=4)
    request = Request([5, 6, 7, 8], "base", (0,))
    scheduler.submit([Entry(name, request, Sampling(max_new_tokens=1)) for name in range(3)])
    assert turns(scheduler) == [[0, 1, 2]]


def test_who_is_cancelled_neither_runs_nor_waits(backbone: Backbone) -> None:
    scheduler = Scheduler(Engine(backbone, slots=1, eos_ids=[]), prefill_tokens=100)
    scheduler.submit(entries(9, 9, 1))
    scheduler.turn()
    scheduler.cancel([0, 1])
    assert scheduler.waiting == 1
    assert scheduler.turn().drawn == []
    assert turns(scheduler) == [[2]]


def test_a_prompt_that_cannot_be_read_fails_alone(backbone: Backbone) -> None:
    scheduler = Scheduler(Engine(backbone, slots=4, eos_ids=[]), prefill_tokens=100)
    good = entries(1, 1)
    scheduler.submit([good[0], Entry("bad", Request([10**6], "base", (0,)), Sampling()), good[1]])
    turn = scheduler.turn()
    assert turn.failed == ["bad"]
    assert sorted(one.name for one in turn.drawn) == [0, 1]


def test_clearing_names_all_that_ran_or_waited(backbone: Backbone) -> None:
    scheduler = Scheduler(Engine(backbone, slots=1, eos_ids=[]), prefill_tokens=100)
    scheduler.submit(entries(9, 9))
    scheduler.turn()
    assert scheduler.clear() == [0, 1]
    assert not scheduler.busy
