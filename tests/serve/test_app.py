"""The app as it is put together, without its processes."""

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.serve.app import ForgeServer, build_server
from rlhf_forge.serve.models import open_models
from rlhf_forge.serve.routes import CHAT, METRICS, MODELS, SCORE, TEXT
from rlhf_forge.serve.settings import Settings

FEEDBACK = "/v1/feedback"


@pytest.fixture
def app(served_run: Path, tmp_path: Path) -> ForgeServer:
    settings = Settings(feedback=str(tmp_path / "feedback.sqlite"))
    return build_server(open_models([str(served_run)]), settings, ())


def status_of(app: ForgeServer, method: str, path: str) -> int:
    """What the app answers to a request with an empty object as its body."""
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": headers}
    scope |= {"query_string": b"", "scheme": "http", "root_path": "", "server": ("localhost", 80)}
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app.app(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("POST", path, 429) for path in (CHAT, TEXT, SCORE)),
        *(("GET", path, 200) for path in (MODELS, METRICS, "/", "/page/models", "/page/main.js")),
        ("POST", FEEDBACK, 400),
    ],
)
def test_no_request_waits_for_a_thread_before_it_is_looked_at(
    app: ForgeServer, method: str, path: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def thread(*_: object) -> None:
        raise AssertionError(f"{path} waits for a thread")

    monkeypatch.setattr("fastapi.dependencies.utils.run_in_threadpool", thread)
    monkeypatch.setattr("fastapi.routing.run_in_threadpool", thread)
    dispatch = app.routes.dispatch
    dispatch.state = "ready"
    dispatch._taken = Settings().capacity
    assert status_of(app, method, path) == status


def test_litserves_own_key_is_not_asked_for(
    served_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litserve.server.LIT_SERVER_API_KEY", "another")
    settings = Settings(feedback=str(tmp_path / "feedback.sqlite"))
    app = build_server(open_models([str(served_run)]), settings, ())
    assert status_of(app, "GET", MODELS) == 200
