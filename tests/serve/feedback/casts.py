"""Votes as a front end sends them, to be varied."""

import json
from typing import Any

from rlhf_forge.serve.feedback.casting import vote_in
from rlhf_forge.serve.feedback.votes import Vote

LONG_ENOUGH = 30.0


def side(text: str, model: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "model": model, "finish_reason": "stop"} | more


def comparison(number: int = 0, choice: str = "a", **fields: Any) -> dict[str, Any]:
    """The body of a vote on a pair of its own."""
    return {
        "kind": "comparison",
        "id": f"vote-{number}",
        "session": "s",
        "annotator": "Ada",
        "blind": True,
        "messages": [{"role": "user", "content": f"What is {number}?"}],
        "a": side(f"It is {number}.", "sft"),
        "b": side(f"It is {number}, I think.", "ppo"),
        "shown_left": "a",
        "choice": choice,
        "seconds_to_vote": LONG_ENOUGH,
    } | fields


def undo(number: int, of: int, **fields: Any) -> dict[str, Any]:
    ours = {"kind": "undo", "id": f"undo-{number}", "undoes": f"vote-{of}"}
    return ours | {"session": "s", "annotator": "Ada"} | fields


def thumb(number: int, rating: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "kind": "thumb",
        "id": f"thumb-{number}",
        "messages": [{"role": "user", "content": "Hello?"}],
        "answer": side("Hello.", "ppo"),
        "rating": rating,
    } | fields


def cast(body: dict[str, Any]) -> Vote:
    """The vote that the server makes of a body."""
    return vote_in(json.dumps(body).encode(), {"sft": "fingerprint of sft"})


def cast_all(*bodies: dict[str, Any]) -> list[Vote]:
    return [cast(body) for body in bodies]
