"""Between the routes and the worker: who is let in, what comes for whom, and who has gone."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

from litserve.utils import ResponseBufferItem

from rlhf_forge.generation.engine import Drawn, Entry
from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.jobs import (
    Cancel,
    Died,
    Failed,
    Generate,
    Loaded,
    News,
    Order,
    Progress,
    Score,
    Scored,
)
from rlhf_forge.serve.metrics import Metrics
from rlhf_forge.serve.settings import Settings

State = Literal["loading", "ready", "restarting", "failing"]
# Steps in a row that may fail before no more requests are taken.
MOST_FAULTS = 3
RETRY_AFTER_SECONDS = 2
Event = Drawn | Scored | ApiError


class Dispatch:
    """Sends orders to the worker and its news to those that wait for them.

    Args:
        settings: Its bounds.
        metrics: Are told.

    Attributes:
        state: Whether the worker takes orders.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.state: State = "loading"
        self.metrics = metrics
        self._settings = settings
        self._taken = 0
        self._mail: dict[str, asyncio.Queue[Event]] = {}
        # One thread: orders arrive in the order in which they were given. It waits for LitServe's
        # queue, which lives in another process, so that no request has to.
        self._post = ThreadPoolExecutor(1, thread_name_prefix="orders")

    def connect(self, request_queue: Any) -> None:
        """Send orders into ``request_queue``."""
        self._queue = request_queue

    async def deliver(self, arrived: ResponseBufferItem) -> None:
        """Hand on the worker's news for ever."""
        while True:
            await arrived.event.wait()
            arrived.event.clear()
            while arrived.response_queue:
                news, _ = arrived.response_queue.popleft()
                self.hear(news)

    def hear(self, news: News) -> None:
        """Hand on one piece of news."""
        match news:
            case Loaded():
                self._enter("ready")
            case Progress():
                self.metrics.see(news)
                for one in news.drawn:
                    self._hand_on(one.name, one)
            case Scored():
                self._hand_on(news.name, news)
            case Failed():
                self._fail(news)
            case Died():
                self._survive()

    def require_room(self, rows: int = 1) -> None:
        """Refuse what cannot be taken now.

        Raises:
            ApiError: 503 if the worker takes no orders, 429 if all places are taken.
        """
        if self.state != "ready":
            raise ApiError(
                503,
                f"no answers yet: the models are {self.state}; see /health/ready",
                code="not_ready",
                retry_after=RETRY_AFTER_SECONDS,
            )
        if self._taken + rows > self._settings.capacity:
            self.metrics.shed.inc()
            raise ApiError(
                429,
                f"all {self._settings.capacity} places are taken; try again later",
                code="rate_limit_exceeded",
                retry_after=RETRY_AFTER_SECONDS,
            )

    @contextmanager
    def door(self) -> Iterator[None]:
        """A place for a request while it is read: of many at once, most are refused right here.

        Raises:
            ApiError: As `require_room`.
        """
        self.require_room()
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def generate(self, entries: list[Entry]) -> AsyncIterator[Drawn]:
        """The tokens of the rows as they come, in the order in which they come.

        A row whose tokens the caller no longer wants is ended by `stop`. Leaving early ends all.

        Raises:
            ApiError: If there is no room, if the time is up, or by the worker's fault.
        """
        names = {entry.name for entry in entries}
        with self._waiting_for(names) as mail:
            await self._send(Generate(entries))
            async for drawn in self._until_deadline(mail):
                assert isinstance(drawn, Drawn)
                if drawn.ended is not None:
                    self._close(drawn.name)
                yield drawn
                if not names & self._mail.keys():
                    return

    async def score(self, order: Score) -> list[float]:
        """The scores of an order.

        Raises:
            ApiError: As `generate`.
        """
        with self._waiting_for({order.name}) as mail:
            await self._send(order)
            async for scored in self._until_deadline(mail):
                assert isinstance(scored, Scored)
                self._close(order.name)
                return scored.scores
        raise AssertionError("mail does not end")

    def stop(self, name: str) -> None:
        """End a row whose answer is complete: its text has met a stop string."""
        if name in self._mail:
            self._cancel([name], reason="stop")

    @contextmanager
    def _waiting_for(self, names: set[str]) -> Iterator["asyncio.Queue[Event]"]:
        """Places for rows, and their mail; those still open in the end are cancelled."""
        self.require_room(len(names))
        mail: asyncio.Queue[Event] = asyncio.Queue()
        self._mail |= dict.fromkeys(names, mail)
        self._taken += len(names)
        reason = "disconnect"
        try:
            yield mail
        except ApiError as error:
            reason = error.code
            raise
        finally:
            self._taken -= len(names)
            self._cancel([name for name in names if name in self._mail], reason=reason)

    async def _until_deadline(self, mail: "asyncio.Queue[Event]") -> AsyncIterator[Event]:
        end = time.monotonic() + self._settings.deadline
        while True:
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    # A mailbox that is never empty must not outlive the deadline.
                    await asyncio.sleep(0)
                    event = await mail.get()
            except TimeoutError:
                seconds = f"{self._settings.deadline:g} seconds"
                raise ApiError(504, f"not done within {seconds}", code="timeout") from None
            if isinstance(event, ApiError):
                raise event
            yield event

    def _fail(self, failed: Failed) -> None:
        self.metrics.failed.inc(len(failed.names))
        if failed.faults >= MOST_FAULTS:
            self._enter("failing")
        for name in failed.names:
            self._hand_on(name, _fault())

    def _survive(self) -> None:
        self._enter("restarting")
        self.metrics.deaths.inc()
        self.metrics.see(Progress([], 0, 0, 0))
        for name in self._mail:
            self._hand_on(name, _gone())

    def _hand_on(self, name: str, event: Event) -> None:
        if name in self._mail:  # whoever it was for may have left by now
            self._mail[name].put_nowait(event)

    def _close(self, name: str) -> None:
        self._mail.pop(name, None)

    def _cancel(self, names: list[str], *, reason: str) -> None:
        if not names:
            return
        for name in names:
            self._close(name)
        self.metrics.cancelled.labels(reason).inc(len(names))
        self._post.submit(self._queue.put, Cancel(names))

    async def _send(self, order: Order) -> None:
        await asyncio.wrap_future(self._post.submit(self._queue.put, order))

    def _enter(self, state: State) -> None:
        self.state = state
        self.metrics.ready.set(state == "ready")


def _fault() -> ApiError:
    return ApiError(500, "the server failed; see its log", code="internal_error")


def _gone() -> ApiError:
    return ApiError(
        503,
        "the process with the models died; it is being restarted",
        code="worker_died",
        retry_after=RETRY_AFTER_SECONDS,
    )
