"""The page's files: what they may do, what they hold, and who may have them."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, MutableMapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from rlhf_forge.serve.app import build_server
from rlhf_forge.serve.errors import add_error_handlers
from rlhf_forge.serve.models import open_models
from rlhf_forge.serve.page import page_routes
from rlhf_forge.serve.settings import Settings
from tests.serve.feedback.child import admit
from tests.serve.feedback.live import DIRECT, ask, served
from tests.tiny_run import write_base, write_run

ASSETS = {
    file.name: file.read_text(encoding="utf-8")
    for file in files("rlhf_forge.serve").joinpath("assets").iterdir()
}
KNOWN = {"policies": ("base", "ppo"), "reward_models": ("reward",)}


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    app = FastAPI(openapi_url=None)
    add_error_handlers(app)
    app.include_router(page_routes(KNOWN, admit=admit, admit_page=admit))
    with served(app) as url:
        yield url


def test_the_page_may_run_and_ask_nothing_but_its_own(page: str) -> None:
    with DIRECT.open(page) as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("img-src") == rules.pop("script-src") == "'self'"
    assert rules.pop("style-src") == rules.pop("connect-src") == "'self'"
    assert set(rules.values()) == {"'none'"}
    assert {"default-src", "base-uri", "form-action", "frame-ancestors"} == set(rules)


def test_every_file_is_served_as_what_it_is(page: str) -> None:
    kinds = {
        "js": "text/javascript",
        "css": "text/css",
        "svg": "image/svg+xml",
        "html": "text/html",
    }
    for name, text in ASSETS.items():
        with DIRECT.open(f"{page}/page/{name}") as answer:
            assert answer.read().decode() == text
            assert answer.headers["Content-Type"].startswith(kinds[name.rpartition(".")[2]])


@pytest.mark.parametrize(
    "name", ["../app.py", "%2e%2e%2fapp.py", "none.js", "__init__.py", "..%00"]
)
def test_nothing_but_the_pages_files_is_served(page: str, name: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        DIRECT.open(f"{page}/page/{name}")
    assert caught.value.code == 404
    caught.value.close()


def test_the_models_are_told_by_what_they_do(page: str) -> None:
    told = {kind: list(names) for kind, names in KNOWN.items()}
    assert ask(f"{page}/page/models") == (200, told)


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/models"])
def test_a_foreign_name_for_this_machine_gets_nothing(page: str, path: str) -> None:
    request = urllib.request.Request(page + path, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        DIRECT.open(request)
    assert caught.value.code == 403
    caught.value.close()


def test_nothing_is_fetched_from_elsewhere() -> None:
    for name, text in ASSETS.items():
        assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|//\w+\.\w+/", text), name
    wanted = re.findall(r'(?:from|src=|href=) ?"(/page/[^"]+)"', " ".join(ASSETS.values()))
    assert {path.removeprefix("/page/") for path in wanted} == set(ASSETS) - {"index.html"}


def test_nothing_is_parsed_as_html_and_nothing_runs_inline() -> None:
    risky = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\.style\b"
    )
    for name, text in ASSETS.items():
        if name.endswith(".js"):
            assert not re.findall(risky, text), name
    index = ASSETS["index.html"]
    assert not re.findall(r"\son\w+=|\sstyle=|<style|<script(?! type=\"module\" src=)", index)


def test_the_page_is_small() -> None:
    assert sum(len(text.encode()) for text in ASSETS.values()) < 100_000


def answered(app: FastAPI, path: str) -> bytes:
    """What an app answers, without a server around it and without its start-up."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "root_path": ""}
    headers = {"headers": [(b"host", b"localhost")], "scheme": "http", "http_version": "1.1"}
    asyncio.run(app(scope | headers, receive, send))
    return b"".join(message.get("body", b"") for message in sent)


def test_the_server_answers_with_the_page_where_litserve_would(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", base=write_base(tmp_path / "base"))
    votes = tmp_path / "feedback.sqlite"
    app = build_server(open_models([str(run)]), Settings(feedback=str(votes)), ()).app
    assert answered(app, "/").decode() == ASSETS["index.html"]
    told = json.loads(answered(app, "/page/models"))
    assert told == {"policies": ["base", "sft", "ppo"], "reward_models": ["reward"]}
    assert json.loads(answered(app, "/v1/feedback/statistics"))["votes"] == 0
    assert not votes.exists()
