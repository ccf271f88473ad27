"""Judges: a Python function that a config names by path."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from rlhf_forge.data.functions import load_function
from rlhf_forge.data.records import Conversation
from rlhf_forge.errors import UserError
from rlhf_forge.parsing import first_line


@dataclass(frozen=True)
class Judgement:
    """What a judge says of some responses.

    Attributes:
        scores: The higher the better.
        correct: 1 for a right answer, 0 else; None if the judge does not say.
    """

    scores: list[float]
    correct: list[float] | None


@dataclass(frozen=True)
class Label:
    """What annotators say of two responses.

    Attributes:
        first_preferred: Share of their labels that prefer the first: 0 or 1 where there is one.
        agreement: Probability with which the annotator sides with the truth here.
    """

    first_preferred: float
    agreement: float


def call(path: str, *arguments: Any, **options: Any) -> Any:
    """What the function at ``path`` returns.

    Raises:
        UserError: If there is none, or it fails.
    """
    function = load_function(path)
    try:
        return function(*arguments, **options)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{path}: raised {type(error).__name__}: {first_line(error)}",
            hint="call it from Python to see where",
        ) from error


def judge(
    path: str,
    prompts: Sequence[Conversation],
    responses: Sequence[str],
    records: Sequence[dict[str, Any]],
) -> Judgement:
    """Ask the function at ``path``, which returns scores, or a dict of score and correct.

    Raises:
        UserError: If it fails, or gives no number for each response.
    """
    verdict = call(path, prompts, responses, records)
    marks = verdict if isinstance(verdict, dict) else {"score": verdict}
    scores = _numbers(path, marks.get("score"), "scores", len(responses))
    if marks.get("correct") is None:
        return Judgement(scores, None)
    correct = _numbers(path, marks["correct"], "marks of correct", len(responses))
    return Judgement(scores, correct)


def annotate(
    path: str,
    records: Sequence[dict[str, Any]],
    first: Sequence[str],
    second: Sequence[str],
    *,
    seed: int,
) -> list[Label]:
    """Ask the function at ``path``, which returns a dict of first_preferred and agreement a pair.

    Raises:
        UserError: If it fails, or gives anything else.
    """
    labels = call(path, records, first, second, seed=seed)
    try:
        found = [Label(float(x["first_preferred"]), float(x["agreement"])) for x in labels]
    except (TypeError, ValueError, KeyError):
        found = []
    shares = all(0 <= x.first_preferred <= 1 and 0 <= x.agreement <= 1 for x in found)
    if len(found) != len(records) or not shares:
        raise UserError(
            f"annotator {path}: must give a dict of first_preferred and agreement, each from 0 to "
            f"1, for each of {len(records)} pairs"
        )
    return found


def _numbers(path: str, values: Any, what: str, count: int) -> list[float]:
    try:
        numbers = [_number(value) for value in values]
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: must give numbers, one a response, as a list or as the {what} of a "
            f"dict (score, correct); gave a {type(values).__name__}"
        ) from None
    if len(numbers) != count:
        raise UserError(f"{path}: gave {len(numbers)} {what} for {count} responses")
    if not all(map(isfinite, numbers)):
        odd = next(row for row, number in enumerate(numbers) if not isfinite(number))
        raise UserError(
            f"{path}: gave {numbers[odd]} for response {odd} of {count}, and a score must be a "
            "finite number"
        )
    return numbers


def _number(value: Any) -> float:
    if isinstance(value, str):  # which float() would take, letter by letter too
        raise TypeError
    return float(value)
