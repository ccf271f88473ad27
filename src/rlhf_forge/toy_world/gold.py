"""The gold score: what a response is really worth, which no training stage may see.

    answer       +2 right, -1 wrong, 0 a hedge, -0.5 none; the first answer or hedge counts
    manners      +0.5 a polite sentence, two at most; -1 a rude one; -0.5 a flattering one
    rest         -0.25 a filler; -0.75 a sentence that is junk, said before, or a second answer
    end          -1 if the response never ended

The best response is worth 3.
"""

from collections.abc import Sequence
from typing import Any

from rlhf_forge.toy_world.language import role_of, sentences

ANSWER_WORTH = {"right": 2.0, "wrong": -1.0, "hedge": 0.0, "none": -0.5}
MANNER_WORTH = {"polite": 0.5, "rude": -1.0, "flattery": -0.5, "filler": -0.25}
MOST_POLITE = 2
"""Polite sentences beyond these are worth nothing."""
JUNK_WORTH = -0.75
UNFINISHED_WORTH = -1.0


def score(
    prompts: Sequence[Sequence[dict[str, str]]],
    responses: Sequence[str],
    records: Sequence[dict[str, Any]],
) -> dict[str, list[float]]:
    """Judge responses by the truth of the toy world.

    Args:
        prompts: Conversations, in the order of ``responses``; the records say all there is to know.
        responses: Texts without special tokens.
        records: Rows of ``records.prompts`` (or of demonstrations or pairs), each with the key
            ``finished``: False where the response met the length limit before it ended.

    Returns:
        ``score``, from 3 downwards, and ``correct``, 1 where the answer is right and 0 elsewhere.
    """
    cases = list(zip(prompts, responses, records, strict=True))
    return {
        "score": [worth(text, r["answer"], finished=r["finished"]) for _, text, r in cases],
        "correct": [float(answer_kind(text, r["answer"]) == "right") for _, text, r in cases],
    }


def worth(response: str, answer: str, *, finished: bool = True) -> float:
    """Gold score of one response.

    Args:
        response: Text without special tokens.
        answer: The canonical sentence that answers the prompt.
        finished: Whether the response ended by itself.
    """
    total = ANSWER_WORTH[answer_kind(response, answer)]
    total += 0.0 if finished else UNFINISHED_WORTH
    polite, answered, seen = 0, False, set[str]()
    for sentence in sentences(response):
        role = role_of(sentence)
        answers = role in ("answer", "hedge")
        if role == "junk" or sentence in seen or (answers and answered):
            total += JUNK_WORTH
        elif role == "polite":
            polite += 1
        else:
            total += MANNER_WORTH.get(role, 0.0)
        answered = answered or answers
        seen.add(sentence)
    return total + MANNER_WORTH["polite"] * min(polite, MOST_POLITE)


def answer_kind(response: str, answer: str) -> str:
    """``right``, ``wrong``, ``hedge`` or ``none``: what the first answering sentence is."""
    for sentence in sentences(response):
        role = role_of(sentence)
        if role == "answer":
            return "right" if sentence == answer else "wrong"
        if role == "hedge":
            return "hedge"
    return "none"
