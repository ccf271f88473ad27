"""Votes as the lines that training reads."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_forge.data.records import assistant
from rlhf_forge.serve.feedback.votes import CUT, Vote, first_looks, standing

FormatName = Literal["trl", "openai", "arena"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """Votes, sorted.

    Attributes:
        decided: One answer was preferred.
        undecided: Ties, both bad, skips.
        left_out: How many were left out, by reason.
    """

    decided: list[Vote]
    undecided: list[Vote]
    left_out: Counter[str]


def sorted_out(votes: Sequence[Vote], *, keep_cut: bool) -> Exported:
    """Which votes can be trained on.

    Args:
        votes: All, the oldest first.
        keep_cut: Keep those whose answers were cut off by the vote.
    """
    kept = standing(votes)
    left_out = Counter({"undone": sum(vote.kind == "undo" for vote in votes)})
    comparisons = [vote for vote in kept if vote.kind == "comparison"]
    left_out["single answers with a thumb"] = len(kept) - len(comparisons)
    looks, repeated = first_looks(comparisons)
    left_out["repeats, for self-consistency"] = len(repeated)
    reasons = [_reason_against(vote, keep_cut=keep_cut) for vote in looks]
    left_out.update(reason for reason in reasons if reason is not None)
    usable = [vote for vote, reason in zip(looks, reasons, strict=True) if reason is None]
    return Exported(
        [vote for vote in usable if vote.decided],
        [vote for vote in usable if not vote.decided],
        +left_out,
    )


def contradictions(votes: Sequence[Vote]) -> int:
    """Number of pairs of which one person prefers the one answer, another the other."""
    choices: dict[str, set[str]] = {}
    for vote in votes:
        choices.setdefault(vote.pair, set()).add(str(vote.choice))
    return sum(len(both) > 1 for both in choices.values())


def _reason_against(vote: Vote, *, keep_cut: bool) -> str | None:
    flags = [flag for flag in vote.flags if not (flag == CUT and keep_cut)]
    if flags:
        return f"flagged {', '.join(flags)}"
    texts = [side.text.strip() for side in vote.sides]
    if vote.decided and not all(texts):
        return "an empty answer"
    if vote.decided and texts[0] == texts[1]:
        return "both answers are the same"
    return None


def rows_of(exported: Exported, form: FormatName) -> tuple[list[Row], list[Row]]:
    """Lines of the decided and of the undecided votes."""
    decided, undecided = FORMATS[form]
    return [decided(v) for v in exported.decided], [undecided(v) for v in exported.undecided]


def _answers(vote: Vote) -> Iterator[list[dict[str, str]]]:
    """The chosen one, then the other."""
    a, b = (assistant(side.text) for side in vote.sides)
    yield from (a, b) if vote.choice == "a" else (b, a)


def _trl(vote: Vote) -> Row:
    chosen, rejected = _answers(vote)
    return {
        "prompt": vote.messages,
        "chosen": chosen,
        "rejected": rejected,
        "margin": vote.strength,
        **_origin(vote),
    }


def _openai(vote: Vote) -> Row:
    preferred, other = _answers(vote)
    asked = {"messages": vote.messages, "tools": [], "parallel_tool_calls": True}
    return {"input": asked, "preferred_output": preferred, "non_preferred_output": other}


def _arena(vote: Vote) -> Row:
    a, b = vote.sides
    turns = vote.messages or []
    winner = {"a": "model_a", "b": "model_b", "both_bad": "tie (bothbad)"}
    return {
        "question_id": vote.id,
        "model_a": a.model,
        "model_b": b.model,
        "winner": winner.get(str(vote.choice), str(vote.choice)),
        "judge": vote.annotator,
        "conversation_a": turns + assistant(a.text),
        "conversation_b": turns + assistant(b.text),
        "turn": sum(turn["role"] == "user" for turn in turns),
        "anony": bool(vote.blind),
        "tstamp": vote.created_at,
    }


def _undecided(vote: Vote) -> Row:
    a, b = (assistant(side.text) for side in vote.sides)
    return {
        "prompt": vote.messages,
        "answers": [a, b],
        "choice": vote.choice,
        "comment": vote.comment,
        **_origin(vote),
    }


def _origin(vote: Vote) -> Row:
    """Where a line comes from."""
    return {
        "source": vote.source,
        "models": [side.model for side in vote.sides],
        "annotator": vote.annotator,
        "vote_id": vote.id,
    }


FORMATS: dict[FormatName, tuple[Callable[[Vote], Row], Callable[[Vote], Row]]] = {
    "trl": (_trl, _undecided),
    "openai": (_openai, _undecided),
    "arena": (_arena, _arena),
}
