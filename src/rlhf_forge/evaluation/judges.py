"""Judges: a Python function that a config names by path."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rlhf_forge.data.records import Conversation
from rlhf_forge.errors import UserError


@dataclass(frozen=True)
class Judgement:
    """What a judge says of some responses.

    Attributes:
        scores: The higher the better.
        correct: 1 for a right answer, 0 else; None if the judge does not say.
    """

    scores: list[float]
    correct: list[float] | None


def load_function(path: str) -> Callable[..., Any]:
    """The function at ``module:function``.

    Raises:
        UserError: If there is none.
    """
    module, _, name = path.partition(":")
    try:
        function: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"no function {path} ({error})") from None
    return function


def judge(
    path: str,
    prompts: Sequence[Conversation],
    responses: Sequence[str],
    records: Sequence[dict[str, Any]],
) -> Judgement:
    """Ask the function at ``path``, which returns scores, or a dict of score and correct.

    Raises:
        UserError: If it gives another number of scores than there are responses.
    """
    verdict = load_function(path)(prompts, responses, records)
    scores, correct = (
        (verdict["score"], verdict.get("correct")) if isinstance(verdict, dict) else (verdict, None)
    )
    if len(scores) != len(responses):
        raise UserError(f"judge {path}: gave {len(scores)} scores for {len(responses)} responses")
    return Judgement([float(s) for s in scores], correct and [float(c) for c in correct])
