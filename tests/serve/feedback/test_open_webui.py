"""Ratings as Open WebUI exports them."""

from typing import Any

import pytest

from rlhf_forge.data.records import BadRecord
from rlhf_forge.serve.feedback.open_webui import read_feedback, votes_in


def message(name: str, parent: str | None, role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "parentId": parent, "role": role, "content": content} | more


def rated(rating: Any = 1, *, up: str = "x", theirs: int | None = None, alone: bool = False) -> Any:
    """One exported rating of answer ``up`` of the answers x and y to one question."""
    messages = {
        "q": message("q", None, "user", "Hi?", childrenIds=["x"] if alone else ["x", "y"]),
        "x": message("x", "q", "assistant", "Hello.", model="sft", childrenIds=[]),
        "y": message("y", "q", "assistant", "What.", model="ppo", childrenIds=[]),
    }
    if theirs is not None:
        messages["y"]["annotation"] = {"rating": theirs}
    return {
        "id": "f1",
        "user_id": "someone@example.org",
        "version": 0,
        "type": "rating",
        "data": {"rating": rating, "model_id": "sft", "comment": "kind", "tags": ["tone"]},
        "meta": {"arena": True, "chat_id": "c", "message_id": up},
        "snapshot": {"chat": {"id": "c", "chat": {"history": {"messages": messages}}}},
        "created_at": 1_700_000_000,
        "updated_at": 1_700_000_000,
    }


@pytest.mark.parametrize(("rating", "choice"), [(1, "a"), ("1", "a"), (-1, "b")])
def test_a_rated_answer_is_compared_with_its_sibling(rating: Any, choice: str) -> None:
    [vote] = votes_in(rated(rating))
    assert [side.text for side in vote.sides] == ["Hello.", "What."]
    assert (vote.choice, vote.blind, vote.shown_left) == (choice, True, None)
    assert vote.messages == [{"role": "user", "content": "Hi?"}]
    assert (vote.comment, vote.tags) == ("kind", ("tone",))
    assert vote.created_at == "2023-11-14T22:13:20.000+00:00"


def test_who_rated_is_not_taken_over() -> None:
    assert "someone" not in repr(votes_in(rated()))


def test_two_answers_rated_alike_are_no_pair_and_rated_unlike_one_pair() -> None:
    assert [vote.kind for vote in votes_in(rated(1, theirs=1))] == ["thumb"]
    [pair] = votes_in(rated(1, theirs=-1))
    assert pair.choice == "a"
    # The sibling's own rating tells the same pair.
    assert [vote.kind for vote in votes_in(rated(-1, theirs=1))] == ["thumb"]


def test_an_answer_alone_is_a_thumb() -> None:
    [vote] = votes_in(rated(-1, alone=True))
    assert (vote.kind, vote.choice) == ("thumb", "down")


def test_turns_before_the_question_are_kept() -> None:
    row = rated()
    messages = row["snapshot"]["chat"]["chat"]["history"]["messages"]
    messages["q"]["parentId"] = "p"
    messages["p"] = message("p", None, "assistant", "Welcome.")
    [vote] = votes_in(row)
    assert [turn["content"] for turn in vote.messages or ()] == ["Welcome.", "Hi?"]


@pytest.mark.parametrize("key", ["id", "data", "meta", "snapshot"])
def test_a_rating_without_its_parts_is_counted_not_dropped(key: str) -> None:
    row = rated()
    del row[key]
    with pytest.raises(BadRecord, match=f"no {key}"):
        votes_in(row)
    votes, unused = read_feedback([("f.json:1", row), ("f.json:2", rated())])
    assert (len(votes), unused.total()) == (1, 1)


@pytest.mark.parametrize("breakage", ["loop", "no message", "no rating"])
def test_a_broken_chat_is_refused(breakage: str) -> None:
    row = rated(None if breakage == "no rating" else 1)
    messages = row["snapshot"]["chat"]["chat"]["history"]["messages"]
    if breakage == "loop":
        messages["q"]["parentId"] = "q"
    if breakage == "no message":
        del messages["x"]
    with pytest.raises(BadRecord):
        votes_in(row)
