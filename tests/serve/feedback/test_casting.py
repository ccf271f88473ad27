"""What a front end may send, and the flags that are written with it."""

import json
from typing import Any

import pytest

from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.feedback.casting import vote_in
from tests.serve.feedback.casts import cast, comparison, side, thumb, undo


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({}, ()),
        ({"a": side("cut", "sft", finish_reason="cut_by_vote")}, ("cut_by_vote",)),
        ({"a": side("", "sft", finish_reason="error")}, ("error_text",)),
        ({"b": side("Internal Server Error", "ppo")}, ("error_text",)),
        ({"b": side("Errors are human.", "ppo")}, ()),
        ({"a": side("I am ChatGPT, by OpenAI.", "sft")}, ("identity_leak",)),
        ({"a": side("I am PPO.", "sft")}, ("identity_leak",)),  # the other one's name
        ({"a": side("I am PPO.", "sft"), "blind": False}, ()),
        ({"a": side("The base of it, ppos and all.", "base")}, ()),
        ({"seconds_to_vote": 0.9}, ("too_fast",)),
        ({"seconds_to_vote": 0.9, "choice": "skip"}, ()),
        ({"seconds_to_vote": 9.9, "a": side("word " * 195, "sft")}, ("too_fast",)),
        ({"seconds_to_vote": None}, ()),
        (
            {"seconds_to_vote": 0, "a": side("I am sft", "sft", finish_reason="cut_by_vote")},
            ("cut_by_vote", "identity_leak", "too_fast"),
        ),
    ],
)
def test_flags_are_written_while_the_vote_is_cast(
    fields: dict[str, Any], flags: tuple[str, ...]
) -> None:
    assert cast(comparison(**fields)).flags == flags


def test_answers_of_a_served_model_are_signed_with_its_artefact() -> None:
    vote = cast(comparison())
    assert [answer.artefact for answer in vote.sides] == ["fingerprint of sft", None]


def test_the_same_pair_has_the_same_name_whoever_judges_it() -> None:
    ada, bob = cast(comparison(0)), cast(comparison(0, id="x", annotator="Bob", shown_left="b"))
    assert ada.pair == bob.pair
    assert ada.pair != cast(comparison(1)).pair
    assert cast(comparison(1, pair=ada.pair)).pair == ada.pair


def test_a_vote_without_an_id_gets_one_of_its_own() -> None:
    one, two = (cast(comparison(id=None)) for _ in range(2))
    assert one.id != two.id


@pytest.mark.parametrize(
    "body",
    [
        comparison(choice="left"),
        comparison(annotator="two\nlines"),
        comparison(annotator="n" * 101),
        comparison(id="../x"),
        comparison(id=""),
        comparison(shown_left="c"),
        comparison(strength=4),
        comparison(seconds_to_vote=-1),
        comparison(messages=[]),
        comparison(a="text"),
        comparison(a=side("x", "sft", ip="127.0.0.1")),
        comparison(ip="127.0.0.1"),
        comparison(flags=[]),
        comparison(pair="not a name"),
        thumb(0, rating=0),
        thumb(0) | {"rating": "up"},
        undo(0, of=0, undoes=None),
        {"kind": "guess"},
        {},
        [],
        None,
    ],
)
def test_what_is_no_feedback_is_refused(body: Any) -> None:
    with pytest.raises(ApiError) as caught:
        vote_in(json.dumps(body).encode(), {})
    assert caught.value.status == 400
