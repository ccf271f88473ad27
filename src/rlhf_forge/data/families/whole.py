"""Whole conversations: the answers are their last turns, or stand beside them as turns."""

from collections.abc import Callable

from rlhf_forge.data.conversations import (
    answer_of,
    implied_pair,
    is_conversation,
    is_transcript,
    is_turn,
    prompt_of,
    transcript_pair,
    turns_of,
)
from rlhf_forge.data.format import Fields, Format, Refusal, nothing
from rlhf_forge.data.records import Pair, Record
from rlhf_forge.data.values import is_number, is_object, is_text, object_of


def _read_whole(fields: Fields, origin: str) -> list[Record]:
    sides = (turns_of(fields[key], key) for key in ("chosen", "rejected"))
    return [Pair(*implied_pair(*sides), origin, {})]


def _read_transcripts(fields: Fields, origin: str) -> list[Record]:
    return [Pair(*transcript_pair(fields["chosen"], fields["rejected"]), origin, {})]


def _read_beside(key: str) -> Callable[[Fields, str], list[Record]]:
    def read(fields: Fields, origin: str) -> list[Record]:
        prompt = prompt_of(turns_of(fields[key], key))
        chosen, rejected = (answer_of([fields[s]], s, prompt) for s in ("chosen", "rejected"))
        return [Pair(prompt, chosen, rejected, origin, {})]

    return read


def _read_openai(fields: Fields, origin: str) -> list[Record]:
    prompt = prompt_of(turns_of(object_of(fields["input"], "input").get("messages"), "messages"))
    chosen, rejected = (
        answer_of(turns_of(fields[key], key), key, prompt)
        for key in ("preferred_output", "non_preferred_output")
    )
    return [Pair(prompt, chosen, rejected, origin, {})]


WHOLE = (
    Format(
        name="hh",
        gives="pairs",
        keys={"chosen": is_transcript, "rejected": is_transcript},
        mapping="up to the last Assistant: -> prompt, the rest -> answers",
        read=_read_transcripts,
        also=lambda fields: fields.get("prompt") is None,
    ),
    Format(
        name="implicit-pairs",
        gives="pairs",
        keys={"chosen": is_conversation, "rejected": is_conversation},
        mapping="all turns but the last -> prompt, last turns -> answers",
        read=_read_whole,
    ),
    Format(
        name="sharegpt-pairs",
        gives="pairs",
        keys={"conversations": is_conversation, "chosen": is_turn, "rejected": is_turn},
        mapping="conversations -> prompt, the turns chosen, rejected -> answers",
        read=_read_beside("conversations"),
    ),
    Format(
        name="messages-pairs",
        gives="pairs",
        keys={"messages": is_conversation, "chosen": is_turn, "rejected": is_turn},
        mapping="messages -> prompt, the turns chosen, rejected -> answers",
        read=_read_beside("messages"),
    ),
    Format(
        name="openai",
        gives="pairs",
        keys={
            "input": is_object,
            "preferred_output": is_conversation,
            "non_preferred_output": is_conversation,
        },
        mapping="input.messages -> prompt, preferred_output, non_preferred_output -> answers",
        read=_read_openai,
    ),
    Format(
        name="hh-red-team",
        gives="pairs",
        keys={"transcript": is_text, "rating": is_number},
        mapping="",
        read=nothing,
        refusal=Refusal(
            "the red-team file of HH: rated transcripts, and no pairs of answers",
            "give one of its other files (harmless-base, helpful-base, ...)",
        ),
    ),
)
