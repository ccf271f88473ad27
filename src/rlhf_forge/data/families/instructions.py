"""Instruction and input as Alpaca and LLaMA-Factory write them, with one answer or with two."""

from typing import Any

from rlhf_forge.data.families.explicit import system_of
from rlhf_forge.data.format import Fields, Format
from rlhf_forge.data.records import (
    BadRecord,
    Conversation,
    Demonstration,
    Pair,
    Record,
    assistant,
    user,
)
from rlhf_forge.data.values import is_text, text_of


def _prompt(fields: Fields) -> Conversation:
    """Instruction and input on lines of their own; an empty input adds no line."""
    parts = [text_of(fields["instruction"], "instruction")]
    if fields.get("input"):
        parts.append(text_of(fields["input"], "input"))
    history = _history(fields.get("history") or [])
    return system_of(fields) + history + user("\n".join(filter(None, parts)))


def _history(value: Any) -> Conversation:
    turns: Conversation = []
    try:
        for asked, answered in value:
            turns += user(text_of(asked, "history")) + assistant(text_of(answered, "history"))
    except (TypeError, ValueError):
        raise BadRecord("history is not a list of [question, answer]") from None
    return turns


def _read_demonstration(fields: Fields, origin: str) -> list[Record]:
    response = assistant(text_of(fields["output"], "output"))
    return [Demonstration(_prompt(fields), response, origin, {})]


def _read_pair(fields: Fields, origin: str) -> list[Record]:
    chosen, rejected = (assistant(text_of(fields[key], key)) for key in ("chosen", "rejected"))
    return [Pair(_prompt(fields), chosen, rejected, origin, {})]


INSTRUCTIONS = (
    Format(
        name="alpaca-pairs",
        gives="pairs",
        keys={"instruction": is_text, "chosen": is_text, "rejected": is_text},
        mapping="system, history, instruction, input -> prompt, chosen, rejected -> answers",
        read=_read_pair,
        optional=("input", "system", "history"),
    ),
    Format(
        name="alpaca",
        gives="demonstrations",
        keys={"instruction": is_text, "output": is_text},
        mapping="system, history, instruction, input -> prompt, output -> response",
        read=_read_demonstration,
        optional=("input", "system", "history"),
    ),
)
