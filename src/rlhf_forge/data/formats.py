"""The formats that are read, and how a row of each becomes a record.

The prompt of two answers is never guessed from their common beginning: "The sky is blue" and "The
sky is black" have no prompt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_forge.data.conversations import (
    answer_of,
    implied_pair,
    is_conversation,
    is_transcript,
    prompt_of,
    split_at_first_answer,
    text_of,
    transcript_pair,
    turns_of,
)
from rlhf_forge.data.records import (
    BadRecord,
    Conversation,
    Demonstration,
    Pair,
    Prompt,
    Record,
    assistant,
    user,
)

Kind = Literal["demonstrations", "pairs", "prompts"]
Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """One way to write preferences, demonstrations or prompts down.

    Attributes:
        name: As the detection prints it.
        gives: What its records are at most: a pair is also a demonstration and a prompt.
        rank: Formats of a lower rank say more of a row and win; two of one rank are a tie.
        keys: What a row has; all are needed.
        mapping: Which key becomes what, for the person to check.
        fits: Whether a row that has the keys has the right types too.
        read: (fields, origin) to a record; raises `BadRecord`.
        optional: Further keys it reads.
    """

    name: str
    gives: Kind
    rank: int
    keys: tuple[str, ...]
    mapping: str
    fits: Callable[[Fields], bool]
    read: Callable[[Fields, str], Record]
    optional: tuple[str, ...] = ()

    def matches(self, fields: Fields) -> bool:
        """Whether this row has the format's keys with the format's types."""
        return all(fields.get(key) is not None for key in self.keys) and self.fits(fields)


def _fits(*keys: str, **tests: Callable[[Any], bool]) -> Callable[[Fields], bool]:
    checks = dict.fromkeys(keys, _is_answer) | tests
    return lambda fields: all(test(fields[key]) for key, test in checks.items())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_answer(value: Any) -> bool:
    return isinstance(value, str) or is_conversation(value)


def _read_pair(fields: Fields, origin: str) -> Pair:
    prompt = prompt_of(fields["prompt"])
    chosen = answer_of(fields["chosen"], "chosen", prompt)
    return Pair(prompt, chosen, answer_of(fields["rejected"], "rejected", prompt), origin, {})


def _read_whole(fields: Fields, origin: str) -> Pair:
    sides = (turns_of(fields[key], key) for key in ("chosen", "rejected"))
    return Pair(*implied_pair(*sides), origin, {})


def _read_transcripts(fields: Fields, origin: str) -> Pair:
    return Pair(*transcript_pair(fields["chosen"], fields["rejected"]), origin, {})


def _read_completion(fields: Fields, origin: str) -> Demonstration:
    prompt = prompt_of(fields["prompt"])
    return Demonstration(prompt, answer_of(fields["completion"], "completion", prompt), origin, {})


def _read_instruction(fields: Fields, origin: str) -> Demonstration:
    prompt: Conversation = []
    if fields.get("system"):
        prompt.append({"role": "system", "content": text_of(fields["system"], "system")})
    prompt += _history(fields.get("history") or [])
    parts = [text_of(fields["instruction"], "instruction")]
    if fields.get("input"):
        parts.append(text_of(fields["input"], "input"))
    response = assistant(text_of(fields["output"], "output"))
    return Demonstration(prompt + user("\n".join(filter(None, parts))), response, origin, {})


def _history(value: Any) -> Conversation:
    turns: Conversation = []
    try:
        for asked, answered in value:
            turns += user(text_of(asked, "history")) + assistant(text_of(answered, "history"))
    except (TypeError, ValueError):
        raise BadRecord("history is not a list of [question, answer]") from None
    return turns


def _read_turns(key: str) -> Callable[[Fields, str], Record]:
    def read(fields: Fields, origin: str) -> Record:
        turns = turns_of(fields[key], key)
        if turns[-1]["role"] == "user":
            return Prompt(turns, origin, {})
        return Demonstration(*split_at_first_answer(turns, key), origin, {})

    return read


def _read_text(fields: Fields, origin: str) -> Demonstration:
    return Demonstration([], assistant(text_of(fields["text"], "text")), origin, {})


def _read_prompt(fields: Fields, origin: str) -> Prompt:
    return Prompt(prompt_of(fields["prompt"]), origin, {})


FORMATS = (
    Format(
        name="prompt, chosen, rejected",
        gives="pairs",
        rank=0,
        keys=("prompt", "chosen", "rejected"),
        mapping="prompt -> prompt, chosen -> preferred answer, rejected -> other answer",
        fits=_fits("prompt", "chosen", "rejected"),
        read=_read_pair,
    ),
    Format(
        name="HH transcripts",
        gives="pairs",
        rank=1,
        keys=("chosen", "rejected"),
        mapping="up to the last Assistant: -> prompt, the rest -> answers",
        fits=_fits(chosen=is_transcript, rejected=is_transcript),
        read=_read_transcripts,
    ),
    Format(
        name="chosen, rejected as whole conversations",
        gives="pairs",
        rank=1,
        keys=("chosen", "rejected"),
        mapping="all turns but the last -> prompt, last turns -> answers",
        fits=_fits(chosen=is_conversation, rejected=is_conversation),
        read=_read_whole,
    ),
    Format(
        name="prompt, completion",
        gives="demonstrations",
        rank=2,
        keys=("prompt", "completion"),
        mapping="prompt -> prompt, completion -> response",
        fits=_fits("prompt", "completion"),
        read=_read_completion,
    ),
    Format(
        name="instruction, output",
        gives="demonstrations",
        rank=2,
        keys=("instruction", "output"),
        mapping="system, history, instruction, input -> prompt, output -> response",
        fits=_fits(instruction=_is_text, output=_is_text),
        read=_read_instruction,
        optional=("input", "system", "history"),
    ),
    Format(
        name="messages",
        gives="demonstrations",
        rank=2,
        keys=("messages",),
        mapping="turns before the first answer -> prompt, the rest -> response",
        fits=_fits(messages=is_conversation),
        read=_read_turns("messages"),
    ),
    Format(
        name="conversations",
        gives="demonstrations",
        rank=2,
        keys=("conversations",),
        mapping="turns before the first answer -> prompt, the rest -> response",
        fits=_fits(conversations=is_conversation),
        read=_read_turns("conversations"),
    ),
    Format(
        name="prompt",
        gives="prompts",
        rank=3,
        keys=("prompt",),
        mapping="prompt -> prompt",
        fits=_fits("prompt"),
        read=_read_prompt,
    ),
    Format(
        name="text",
        gives="demonstrations",
        rank=3,
        keys=("text",),
        mapping="text -> response, without a prompt",
        fits=_fits(text=_is_text),
        read=_read_text,
    ),
)
