"""Votes through kills: what was acknowledged is there, and nothing is there twice."""

import http.client
import random
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from rlhf_forge.serve.feedback.store import FeedbackStore
from tests.ports import free_port
from tests.serve.feedback.casts import comparison
from tests.serve.feedback.child import serve
from tests.serve.feedback.live import ask
from tests.several import CONTEXT

SECONDS_TO_GO_ON = 300


class Killed:
    """A server that is killed by kill -9 and started again on the same file.

    Attributes:
        votes: How many were acknowledged.
        sent_again: Of these, the ones whose first acknowledgement a kill took away.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.port = path, free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1/feedback"
        self.votes = self.sent_again = 0
        self.process = self._start()
        self.vote()
        self.sent_again = 0  # that one waited for the start

    def _start(self) -> BaseProcess:
        process = CONTEXT.Process(target=serve, args=(self.port, self.path), daemon=True)
        process.start()
        return process

    def kill_soon(self, rng: random.Random) -> threading.Timer:
        """Kill it at some moment of the next votes."""
        timer = threading.Timer(rng.uniform(0.0, 0.05), self._kill)
        timer.start()
        return timer

    def _kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.process = self._start()

    def vote(self) -> None:
        """Send the next vote until it is acknowledged, as the page does."""
        end, tries = time.monotonic() + SECONDS_TO_GO_ON, 0
        while time.monotonic() < end:
            try:
                status, _ = ask(self.url, comparison(self.votes))
            except (OSError, http.client.HTTPException):
                tries += 1
                time.sleep(0.02)
                continue
            assert status in {200, 201}
            self.sent_again += tries > 0
            self.votes += 1
            return
        raise AssertionError("the server did not come back")

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def vote_through_kills(path: Path, *, between: int, again: int) -> Killed:
    """Vote, and kill the server after every so many votes until so many were sent again.

    Votes are sent until the kill has come: it meets them on a machine of any speed.
    """
    server, rng = Killed(path), random.Random(0)
    try:
        while server.sent_again < again:
            for _ in range(between):
                server.vote()
            kill = server.kill_soon(rng)
            try:
                while kill.is_alive():
                    server.vote()
            finally:
                kill.join()
        for _ in range(between):
            server.vote()
    finally:
        server.end()
    return server


def require_each_once(server: Killed) -> None:
    stored = FeedbackStore(server.path).votes()
    assert [vote.id for vote in stored] == [f"vote-{number}" for number in range(server.votes)]
    texts = [(vote.messages or [])[0]["content"] for vote in stored]
    assert texts == [f"What is {number}?" for number in range(server.votes)]


def test_acknowledged_votes_outlive_kill_9_and_none_is_doubled(tmp_path: Path) -> None:
    require_each_once(vote_through_kills(tmp_path / "feedback.sqlite", between=100, again=1))


@pytest.mark.slow
def test_a_thousand_votes_outlive_ten_kills(tmp_path: Path) -> None:
    server = vote_through_kills(tmp_path / "feedback.sqlite", between=100, again=10)
    assert server.votes >= 1000
    require_each_once(server)
