"""Where two greedy answers part, and how near the two best tokens were there."""

from importlib import import_module
from typing import Any

import pytest


def token(text: str, best: float = -0.1, second: float = -3.0) -> dict[str, Any]:
    likely = [{"logprob": best}, {"logprob": second}]
    return {"bytes": list(text.encode()), "top_logprobs": likely}


def margin(alone: list[dict[str, Any]], together: list[dict[str, Any]]) -> float | None:
    found: float | None = import_module("serving_greedy").margin(alone, together)
    return found


def test_answers_that_agree_have_no_margin() -> None:
    assert margin([token("a"), token("b")], [token("a"), token("b")]) is None


def test_the_margin_is_that_of_the_first_token_that_differs() -> None:
    alone = [token("a"), token("b", -0.70, -0.72), token("c")]
    together = [token("a"), token("x", -0.69, -0.74), token("d")]
    assert margin(alone, together) == pytest.approx(0.02)


def test_an_answer_that_goes_on_parts_where_the_other_ends() -> None:
    assert margin([token("a")], [token("a"), token("b", -0.5, -1.0)]) == pytest.approx(0.5)
