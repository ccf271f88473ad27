"""Who is let in, what comes for whom, and what becomes of places."""

import asyncio
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any

import pytest

from rlhf_forge.generation.engine import Drawn, Entry, Request
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.serve.dispatch import MOST_FAULTS, Dispatch
from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.jobs import (
    Cancel,
    Died,
    Failed,
    Generate,
    Loaded,
    Order,
    Progress,
    Score,
    Scored,
)
from rlhf_forge.serve.metrics import Metrics
from rlhf_forge.serve.settings import Settings


class Desk:
    """A dispatch that is ready, and the orders that it gives."""

    def __init__(self, **settings: Any) -> None:
        self.dispatch = Dispatch(Settings(slots=2, queue=1, **settings), Metrics())
        self.orders: SimpleQueue[Order] = SimpleQueue()
        self.dispatch.connect(self.orders)
        self.dispatch.hear(Loaded())

    def draw(self, name: str, token: int, ended: Any = None) -> None:
        self.dispatch.hear(Progress([Drawn(name, token, ended)], 1, 0, 1))

    async def order(self) -> Order:
        return await asyncio.to_thread(self.orders.get, timeout=60)

    def count(self, name: str) -> float:
        return self.dispatch.metrics.registry.get_sample_value(name) or 0.0


def entry(name: str) -> Entry:
    return Entry(name, Request([5], "ppo", (0,)), Sampling())


async def tokens_of(desk: Desk, *names: str) -> list[tuple[str, int]]:
    rows = desk.dispatch.generate([entry(name) for name in names])
    return [(one.name, one.token) async for one in rows]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 300))


async def refused(attempt: Coroutine[Any, Any, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await attempt
    return caught.value


def test_each_request_gets_the_tokens_of_its_rows_in_their_order() -> None:
    async def test() -> None:
        desk = Desk()
        asked = [asyncio.create_task(tokens_of(desk, *names)) for names in (("a", "b"), ("c",))]
        orders = [await desk.order(), await desk.order()]
        assert orders == [Generate([entry("a"), entry("b")]), Generate([entry("c")])]
        for name, token, ended in [("a", 1, None), ("c", 2, "stop"), ("b", 3, "stop")]:
            desk.draw(name, token, ended)
        desk.draw("a", 4, "length")
        assert [await one for one in asked] == [[("a", 1), ("b", 3), ("a", 4)], [("c", 2)]]
        desk.dispatch.require_room(3)
        assert desk.orders.empty()

    run(test)


def test_what_has_no_place_is_refused_at_once_and_counted() -> None:
    async def test() -> None:
        desk = Desk()
        asked = [asyncio.create_task(tokens_of(desk, name)) for name in "abc"]
        for _ in asked:
            await desk.order()
        error = await refused(tokens_of(desk, "d"))
        assert (error.status, error.code, error.retry_after) == (429, "rate_limit_exceeded", 2)
        assert desk.count("forge_shed_total") == 1
        desk.draw("a", 1, "stop")
        await asked[0]
        desk.dispatch.require_room(1)
        assert (await refused(tokens_of(desk, "d", "e"))).status == 429
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
        desk.dispatch.require_room(3)

    run(test)


def test_a_request_takes_a_place_while_it_is_read() -> None:
    desk = Desk()
    with desk.dispatch.door(), desk.dispatch.door(), desk.dispatch.door():
        with pytest.raises(ApiError) as caught, desk.dispatch.door():
            pass
        assert caught.value.status == 429
    desk.dispatch.require_room(3)


def test_who_leaves_frees_the_place_and_cancels_the_rows() -> None:
    async def test() -> None:
        desk = Desk()
        rows = desk.dispatch.generate([entry("a"), entry("b")])
        first = asyncio.ensure_future(anext(rows))
        await desk.order()
        desk.draw("a", 1, "stop")
        await first
        second = asyncio.ensure_future(anext(rows))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        assert await desk.order() == Cancel(["b"])
        desk.dispatch.require_room(3)
        cancelled = desk.dispatch.metrics.registry.get_sample_value(
            "forge_cancelled_total", {"reason": "disconnect"}
        )
        assert cancelled == 1

    run(test)


def test_a_row_whose_text_is_complete_is_stopped_alone() -> None:
    async def test() -> None:
        desk = Desk()
        rows = desk.dispatch.generate([entry("a"), entry("b")])
        first = asyncio.ensure_future(anext(rows))
        await desk.order()
        desk.draw("a", 1)
        assert (await first).name == "a"
        desk.dispatch.stop("a")
        assert await desk.order() == Cancel(["a"])
        desk.draw("a", 2)  # on its way already
        desk.draw("b", 3, "stop")
        assert [one.token async for one in rows] == [3]
        assert desk.orders.empty()

    run(test)


def test_a_deadline_holds_for_waiting_and_running_alike() -> None:
    async def test() -> None:
        desk = Desk(deadline=0.05)
        error = await refused(tokens_of(desk, "a"))
        assert (error.status, error.code) == (504, "timeout")
        assert [await desk.order(), await desk.order()] == [
            Generate([entry("a")]),
            Cancel(["a"]),
        ]

        async def flood() -> None:
            while True:
                desk.draw("b", 1)
                await asyncio.sleep(0.001)

        flooding = asyncio.create_task(flood())
        assert (await refused(tokens_of(desk, "b"))).status == 504
        flooding.cancel()

    run(test)


def test_when_the_worker_dies_all_are_told_and_none_is_let_in_until_it_is_back() -> None:
    async def test() -> None:
        desk = Desk()
        asked = [
            asyncio.create_task(tokens_of(desk, "a", "b")),
            asyncio.create_task(desk.dispatch.score(Score("s", "reward", []))),
        ]
        await desk.order()
        await desk.order()
        desk.dispatch.hear(Died())
        for task in asked:
            assert (await refused(_result(task))).code == "worker_died"
        error = await refused(tokens_of(desk, "c"))
        assert (error.status, error.code, error.retry_after) == (503, "not_ready", 2)
        assert desk.count("forge_ready") == 0
        desk.dispatch.hear(Loaded())
        desk.dispatch.require_room(3)
        assert desk.count("forge_worker_deaths_total") == 1

    run(test)


def test_a_fault_fails_those_it_names_and_many_in_a_row_close_the_door() -> None:
    async def test() -> None:
        desk = Desk()
        asked = asyncio.create_task(tokens_of(desk, "a"))
        scored = asyncio.create_task(desk.dispatch.score(Score("s", "reward", [])))
        await desk.order()
        await desk.order()
        desk.dispatch.hear(Failed(["a"], faults=1))
        assert (await refused(_result(asked))).status == 500
        desk.dispatch.hear(Scored("s", [0.5]))
        assert await scored == [0.5]
        assert desk.count("forge_ready") == 1
        desk.dispatch.hear(Failed([], faults=MOST_FAULTS))
        assert desk.dispatch.state == "failing"

    run(test)


def test_before_the_models_are_loaded_nobody_is_let_in() -> None:
    dispatch = Dispatch(Settings(), Metrics())
    with pytest.raises(ApiError, match="loading") as caught:
        dispatch.require_room()
    assert caught.value.status == 503


async def _result(task: "asyncio.Task[Any]") -> Any:
    return await task
