"""docs/feedback.md, typed line by line."""

import json
import shlex
from pathlib import Path

import pytest

from rlhf_forge.__main__ import main
from rlhf_forge.serve.feedback.store import FeedbackStore
from tests.serve.feedback.casts import cast_all, comparison, undo
from tests.serve.feedback.child import feedback_app
from tests.serve.feedback.live import ask, served
from tests.serve.feedback.test_open_webui import rated
from tests.test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "feedback.md"
OURS = "python -m rlhf_forge "
HERE = "http://127.0.0.1:8000"


def typed() -> list[tuple[str, list[str]]]:
    """Each line of the page behind a $, with the lines it shows as the answer."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks(PAGE, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found:
                found[-1][1].append(line)
    return found


@pytest.mark.parametrize("word", ["export-feedback", "import-feedback"])
def test_the_commands_answer_as_the_page_says(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    votes = [comparison(n) for n in range(9)]
    votes += [comparison(9, "tie"), comparison(10, "skip"), comparison(11), undo(0, of=11)]
    votes += [comparison(12, seconds_to_vote=0.1)]
    for vote in cast_all(*votes):
        FeedbackStore(Path("feedback.sqlite")).add(vote)
    Path("open-webui.json").write_text(json.dumps([rated(), rated(alone=True) | {"id": "f2"}]))
    [(line, shown)] = [(line, shown) for line, shown in typed() if f" {word} " in line]
    assert main(shlex.split(line.removeprefix(OURS))) == 0
    assert capsys.readouterr().out.splitlines() == shown


def test_the_requests_are_taken_as_the_page_says(tmp_path: Path) -> None:
    lines = [shlex.split(line) for line, _ in typed() if line.startswith("curl ")]
    assert len(lines) == 4
    told = None
    with served(feedback_app(tmp_path / "feedback.sqlite")) as url:
        for words in lines:
            body = json.loads(words[words.index("-d") + 1]) if "-d" in words else None
            status, told = ask(words[1].replace(HERE, url), body)
            assert status == (200 if body is None else 201)
            if body and "id" in body:
                assert ask(words[1].replace(HERE, url), body)[0] == 200
    assert told is not None
    assert (told["votes"], told["undone"], told["thumbs"]) == (1, 1, {})
