"""The feedback over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.feedback.casts import comparison, thumb, undo
from tests.serve.feedback.child import feedback_app
from tests.serve.feedback.live import ask, served


@pytest.fixture
def feedback(tmp_path: Path) -> Iterator[str]:
    with served(feedback_app(tmp_path / "feedback.sqlite")) as url:
        yield f"{url}/v1/feedback"


def test_a_vote_is_acknowledged_once_and_found_again(feedback: str) -> None:
    status, told = ask(feedback, comparison(seconds_to_vote=0))
    assert (status, told["id"], told["flags"]) == (201, "vote-0", ["too_fast"])
    assert ask(feedback, comparison(seconds_to_vote=0)) == (200, told)
    assert ask(feedback, comparison(choice="b"))[0] == 409
    assert ask(feedback, undo(0, of=5))[0] == 404


def test_the_statistics_follow_the_votes(feedback: str) -> None:
    for body in (comparison(0, "b"), comparison(1, "tie"), comparison(2), undo(0, of=2), thumb(0)):
        assert ask(feedback, body)[0] == 201
    score = {"vote": "vote-0", "model": "reward", "a": 0.0, "b": 1.5}
    assert ask(f"{feedback}/scores", score)[0] == 201
    assert ask(f"{feedback}/scores", score | {"vote": "vote-9"})[0] == 404
    status, told = ask(f"{feedback}/statistics")
    assert status == 200
    assert (told["counted"], told["undone"], told["thumbs"]) == (2, 1, {"up": 1})
    assert told["reward_agrees"]["reward"]["value"] == 1
    assert [row["model"] for row in told["models"]] == ["ppo", "sft"]


def test_an_offer_says_nothing_of_who_judged_it_or_how(feedback: str) -> None:
    status, told = ask(f"{feedback}/next", {"annotator": "Bob"})
    assert status == 200
    assert told["offer"]["again"] is None
    ask(feedback, comparison(0, comment="mine"))
    _, told = ask(f"{feedback}/next", {"annotator": " Bob ", "shared": True})
    assert set(told["offer"]["again"]) == {"pair", "messages", "a", "b"}
    _, told = ask(f"{feedback}/next", {"annotator": "Ada", "shared": True})
    assert told["offer"] is None


def test_a_foreign_page_can_neither_vote_nor_read(feedback: str) -> None:
    foreign = {"Origin": "http://evil.example"}
    assert ask(feedback, comparison(), **foreign)[0] == 403
    assert ask(feedback, comparison(), **{"Content-Type": "text/plain"})[0] == 415
    assert ask(f"{feedback}/statistics", Host="evil.example")[0] == 403
    assert ask(f"{feedback}/statistics")[1]["votes"] == 0


def test_a_vote_that_cannot_be_stored_is_not_acknowledged(tmp_path: Path) -> None:
    (tmp_path / "feedback.sqlite").mkdir()
    with served(feedback_app(tmp_path / "feedback.sqlite")) as url:
        status, told = ask(f"{url}/v1/feedback", comparison())
    assert (status, told["error"]["code"]) == (503, "not_stored")
