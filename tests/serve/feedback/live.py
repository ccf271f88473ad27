"""An app behind a real socket, in a thread of the test."""

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SECONDS_TO_START = 300


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The app's address, while it runs."""
    config = uvicorn.Config(app, port=0, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + SECONDS_TO_START
        while not server.started and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        assert server.started
        [listening] = server.servers[0].sockets
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def ask(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of a GET, or of a POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} | headers
    try:
        answer = DIRECT.open(urllib.request.Request(url, data, given), timeout=60)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())
    with answer:
        return answer.status, json.loads(answer.read())
