"""What the worker does all day: takes orders between two steps, and tells what came of them."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, Queue, SimpleQueue
from typing import Any

import torch
from litserve import LitAPI
from litserve.loops import LitLoop
from litserve.utils import LitAPIStatus, LoopResponseType
from typing_extensions import override

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import score
from rlhf_forge.generation.scheduler import Scheduler
from rlhf_forge.serve.jobs import (
    Failed,
    Generate,
    Loaded,
    News,
    Order,
    Progress,
    Score,
    Scored,
)

logger = logging.getLogger(__name__)

# All that the worker tells goes to the one HTTP process, under this name.
NEWS = "news"
# An order that a dead worker waited for at the queue is lost; none waits longer than this.
SECONDS_AT_THE_QUEUE = 0.5


class Shift:
    """Works on orders: rows in one running batch, and an answer to score between two steps.

    Args:
        scheduler: Of the rows.
        backbone: Scores.
        tell: Takes the news.
    """

    def __init__(
        self, scheduler: Scheduler, backbone: Backbone, tell: Callable[[News], None]
    ) -> None:
        self.scheduler = scheduler
        self.backbone = backbone
        self.tell = tell
        self.faults = 0
        self._scoring: deque[tuple[Score, list[float]]] = deque()

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self._scoring) or self.scheduler.busy

    def take(self, order: Order) -> None:
        """Put an order to the others."""
        if isinstance(order, Generate):
            self.scheduler.submit(order.entries)
        elif isinstance(order, Score):
            self._scoring.append((order, []))
        else:
            self.scheduler.cancel(order.names)
            self._scoring = deque(s for s in self._scoring if s[0].name not in order.names)
            self.tell(self._progress([]))

    def turn(self) -> None:
        """A token for every row that runs, and one score."""
        if self.scheduler.busy:
            self._step()
        if self._scoring:
            self._score()

    def _step(self) -> None:
        try:
            turn = self.scheduler.turn()
        except Exception:
            logger.exception("a step failed")
            self.faults += 1
            self.tell(Failed(self.scheduler.clear(), self.faults))
            self.tell(self._progress([]))
            return
        self.faults = 0
        if turn.failed:
            self.tell(Failed(turn.failed))
        self.tell(self._progress(turn.drawn))

    def _progress(self, drawn: list[Any]) -> Progress:
        engine = self.scheduler.engine
        return Progress(drawn, engine.running, self.scheduler.waiting, engine.held)

    def _score(self) -> None:
        order, scores = self._scoring[0]
        try:
            scores.append(score_of(self.backbone, order.role, *order.rows[len(scores)]))
        except Exception:
            logger.exception("an answer could not be scored")
            self._scoring.popleft()
            self.tell(Failed([order.name]))
            return
        if len(scores) == len(order.rows):
            self._scoring.popleft()
            self.tell(Scored(order.name, scores))


@torch.no_grad()
def score_of(backbone: Backbone, role: str, tokens: list[int], targets: list[bool]) -> float:
    """The score of one answer, by itself: it does not depend on what it was sent with."""
    ids = torch.tensor([tokens], device=backbone.device)
    mask = torch.tensor([targets], device=backbone.device)
    return score(backbone, ids, mask, role=role).item()


class TokenLoop(LitLoop):  # type: ignore[misc]  # litserve has no types
    """LitServe's loop, replaced: rows enter and leave the batch at every step."""

    @override
    def run(
        self,
        lit_api: LitAPI,
        device: str,
        worker_id: int,
        request_queue: Any,
        transport: Any,
        workers_setup_status: Any,
        callback_runner: Any,
    ) -> None:
        tell = partial(_send, transport)
        shift = Shift(lit_api.scheduler, lit_api.backbone, tell)
        inbox: SimpleQueue[Order] = SimpleQueue()
        _forget_orders(request_queue)
        # Asking the queue takes as long as a small step, so a thread of its own does it.
        threading.Thread(target=_fetch, args=(request_queue, inbox), daemon=True).start()
        tell(Loaded())
        while True:
            work(shift, inbox)


def work(shift: Shift, inbox: "SimpleQueue[Order]") -> None:
    """Take all orders there are, waiting for one if there is nothing to do, and do a turn."""
    if not shift.busy:
        shift.take(inbox.get())
    while not inbox.empty():
        shift.take(inbox.get())
    shift.turn()


def _send(transport: Any, news: News) -> None:
    item = (news, LitAPIStatus.OK, LoopResponseType.STREAMING, 0)
    transport.send((NEWS, item), consumer_id=0)


def _forget_orders(request_queue: "Queue[Order]") -> None:
    """What was asked of a worker before this one has been answered with an error."""
    try:
        while True:
            request_queue.get_nowait()
    except Empty:
        return


def _fetch(request_queue: "Queue[Order]", inbox: "SimpleQueue[Order]") -> None:
    while True:
        try:
            inbox.put(request_queue.get(timeout=SECONDS_AT_THE_QUEUE))
        except Empty:
            continue
        except (EOFError, OSError):
            os._exit(1)  # the queue's process is gone, and so is the server
