"""docs/circle.md as it stands: serve, vote in a browser, export, reward, PPO, serve, win."""

import http.client
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.toy_world.records import prompts
from tests.browsing import CHROMIUM, FLAGS
from tests.ports import free_port
from tests.serve.feedback.live import ask
from tests.serve.page.voter import Voter
from tests.test_docs import ROOT, typed_lines

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # trains a reward model and PPO
VOTES_TO_LEARN_FROM, VOTES_TO_JUDGE = 60, 40
SECONDS_TO_START = 300


def run(line: str, folder: Path) -> None:
    """Type a line of the page in ``folder``."""
    words = shlex.split(line)
    assert words[0] == "python"
    command = [sys.executable, *words[1:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"


@contextmanager
def served(line: str, folder: Path) -> Iterator[str]:
    """The server that a line of the page starts, on a free port, until Ctrl-C."""
    port = free_port()
    command = [sys.executable, *shlex.split(line)[1:], "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, f"{url}/page/models")
        yield url
    finally:
        process.terminate()  # a job in the background does not hear Ctrl-C
        assert process.wait(60) == 0


def _wait(process: "subprocess.Popen[bytes]", url: str) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        try:
            ask(url)
            return
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
    raise AssertionError("the server did not start")


@contextmanager
def voter(url: str) -> Iterator[Voter]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(120_000)
        yield Voter(page, url)
        browser.close()


def questions(seed: int, count: int) -> list[str]:
    """More prompts than votes: some pairs come back."""
    return [row["prompt"] for row in prompts(seed=seed, split="train")[: count + 10]]


def test_the_votes_of_a_page_make_a_model_that_wins_by_them(tmp_path: Path) -> None:
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}")
    sft, serve_one, export, reward, ppo, serve_both = typed_lines(ROOT / "docs" / "circle.md")
    run(sft, tmp_path)
    with served(serve_one, tmp_path) as url, voter(url) as person:
        wanted = questions(1, VOTES_TO_LEARN_FROM)
        told: Any = person.vote(("sft", "sft"), wanted, VOTES_TO_LEARN_FROM)
    assert told["longer_wins"]["value"] == 0  # the stored choices are those of the rule
    assert told["self_consistency"]["value"] == 1
    for line in (export, reward, ppo):
        run(line, tmp_path)
    with served(serve_both, tmp_path) as url, voter(url) as person:
        wanted = questions(2, VOTES_TO_JUDGE)
        told = person.vote(("sft", "ppo"), wanted, VOTES_TO_JUDGE)
    [best, _] = told["models"]
    assert best["model"] == "ppo"
    assert best["wins"]["low"] > 0.5
