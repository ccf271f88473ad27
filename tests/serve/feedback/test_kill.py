"""Votes through kills: what was acknowledged is there, and nothing is there twice."""

import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlhf_forge.serve.feedback.store import FeedbackStore
from tests.serve.feedback.casts import comparison
from tests.serve.feedback.live import ask, free_port

SECONDS_TO_GO_ON = 60


class Killed:
    """A server that is killed by kill -9 and started again on the same file.

    Attributes:
        sent_again: Votes whose acknowledgement a kill took away.
        known: Of these, the ones that were stored all the same.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.port = path, free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1/feedback"
        self.sent_again = self.known = 0
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        module = "tests.serve.feedback.child"
        return subprocess.Popen([sys.executable, "-m", module, str(self.port), str(self.path)])

    def kill_soon(self, rng: random.Random) -> threading.Timer:
        """Kill it at some moment of the next votes."""
        timer = threading.Timer(rng.uniform(0.0, 0.05), self._kill)
        timer.start()
        return timer

    def _kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = self._start()

    def vote(self, number: int) -> None:
        """Send a vote until it is acknowledged, as the page does."""
        end, tries = time.monotonic() + SECONDS_TO_GO_ON, 0
        while time.monotonic() < end:
            try:
                status, _ = ask(self.url, comparison(number))
            except (OSError, http.client.HTTPException):
                tries += 1
                time.sleep(0.02)
                continue
            assert status in {200, 201}
            self.sent_again += tries > 0
            self.known += status == 200
            return
        raise AssertionError("the server did not come back")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def vote_through_kills(path: Path, *, votes: int, every: int) -> Killed:
    server, rng, kills = Killed(path), random.Random(0), []
    try:
        for number in range(votes):
            if number % every == every // 2:
                kills.append(server.kill_soon(rng))
            server.vote(number)
        for kill in kills:
            kill.join()
    finally:
        server.end()
    return server


def require_each_once(path: Path, votes: int) -> None:
    stored = FeedbackStore(path).votes()
    assert [vote.id for vote in stored] == [f"vote-{number}" for number in range(votes)]
    texts = [(vote.messages or [])[0]["content"] for vote in stored]
    assert texts == [f"What is {number}?" for number in range(votes)]


def test_acknowledged_votes_outlive_kill_9_and_none_is_doubled(tmp_path: Path) -> None:
    path = tmp_path / "feedback.sqlite"
    server = vote_through_kills(path, votes=200, every=200)
    require_each_once(path, 200)
    assert server.sent_again > 0


@pytest.mark.slow
def test_a_thousand_votes_outlive_ten_kills(tmp_path: Path) -> None:
    path = tmp_path / "feedback.sqlite"
    server = vote_through_kills(path, votes=1000, every=100)
    require_each_once(path, 1000)
    assert server.sent_again >= 5
