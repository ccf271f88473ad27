"""What the server does when callers leave, too many come, or a process is killed."""

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from rlhf_forge.serve.settings import KEYS
from tests.serve.server import Server, hello
from tests.tiny_run import CONTEXT

pytestmark = pytest.mark.slow
LONG = CONTEXT - 40
CHAT = "/v1/chat/completions"
PATIENCE = 300
ROWS = ("forge_running", "forge_waiting")


@pytest.fixture(scope="module")
def small(served_run: Path) -> Iterator[Server]:
    """Two slots and two places to wait."""
    server = Server(served_run, "--slots", "2", "--queue", "2")
    yield server
    if server.process.poll() is None:
        server.end()


# Always the likeliest token: the answer is as long as it may be.
GREEDY: dict[str, Any] = {"model": "ppo", "messages": hello(), "temperature": 0}


def body(length: int, *, stream: bool) -> bytes:
    asked = GREEDY | {"max_tokens": length, "stream": stream}
    return json.dumps(asked | {"logprobs": True, "top_logprobs": 20}).encode()


def drop(server: Server, *, stream: bool) -> None:
    """Ask for a long answer and leave."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", CHAT, body(LONG, stream=stream), headers)
    if stream:
        connection.getresponse().read(1)
    else:
        assert comes_to(server, 1)
    connection.close()


def comes_to(server: Server, number: int, *names: str) -> bool:
    """Whether metrics, by default those of the rows, add up to a number within a few minutes."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if sum(map(server.number, names or ROWS)) == number:
            return True
        time.sleep(0.01)
    return False


def test_callers_who_leave_free_their_slots_and_are_counted(small: Server) -> None:
    for gone, stream in enumerate((True, False) * 3, 1):
        drop(small, stream=stream)
        assert comes_to(small, gone, "forge_cancelled_total")
        assert comes_to(small, 0)
    status, _ = small.post(CHAT, body(1, stream=False))
    assert status == 200
    assert small.number("forge_cancelled_total") == 6


def test_a_burst_gets_answers_or_a_429_and_none_is_lost(small: Server) -> None:
    told: list[dict[str, str]] = []

    def ask(_: int) -> int:
        with small.client() as client:
            all_at_once.wait()
            try:
                client.chat.completions.create(model="ppo", messages=hello(), max_tokens=LONG)
            except openai.RateLimitError as error:
                told.append(dict(error.response.headers))
                return error.status_code
        return 200

    all_at_once = threading.Barrier(40)
    with ThreadPoolExecutor(40) as pool:
        statuses = Counter(pool.map(ask, range(40)))
    assert statuses[200] >= 4
    assert statuses[200] + statuses[429] == 40
    assert statuses[429] > 0
    assert all(int(headers["retry-after"]) > 0 for headers in told)
    assert comes_to(small, 0)


def test_a_worker_killed_in_mid_stream_is_told_and_replaced(small: Server) -> None:
    ended: list[BaseException | None] = []

    def ask(stream: bool) -> None:
        with small.client() as client:
            try:
                answer: Any = client.chat.completions.create(
                    **GREEDY, max_tokens=LONG, stream=stream
                )
                for _ in answer if stream else ():
                    pass
                ended.append(None)
            except openai.APIError as error:
                ended.append(error)

    askers = [threading.Thread(target=ask, args=(stream,)) for stream in (True, False, False)]
    for asker in askers:
        asker.start()
    assert comes_to(small, 3)
    os.kill(small.worker(), signal.SIGKILL)
    for asker in askers:
        asker.join(PATIENCE)
    assert not any(asker.is_alive() for asker in askers)
    assert len(ended) == 3
    assert all(isinstance(error, openai.APIError) for error in ended), ended
    small.wait_until_ready()
    assert small.post(CHAT, body(2, stream=False))[0] == 200
    assert small.number("forge_worker_deaths_total") == 1
    assert "the worker died" in small.log.read_text()


def test_keys_are_asked_for_where_they_are_set(served_run: Path) -> None:
    server = Server(served_run, environment=os.environ | {KEYS: "secret"})
    try:
        assert server.get("/v1/models")[0] == server.get("/metrics", Authorization="x")[0] == 401
        assert server.get("/health/live")[0] == 200
        with server.client("wrong") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        with server.client("secret") as client:
            assert client.models.retrieve("ppo").id == "ppo"
        assert "secret" not in server.log.read_text()
    finally:
        server.end()
