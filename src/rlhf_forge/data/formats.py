"""Telling a data set's format by its keys and their types, and reading rows of it.

Most specific first; a data set that fits two formats is refused. The prompt of two answers is never
guessed from their common beginning: "The sky is blue" and "The sky is black" have no prompt.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_forge.data.conversations import (
    answer,
    implied_pair,
    is_conversation,
    is_transcript,
    prompt_of,
    sharegpt,
    split_at_first_answer,
    transcript_pair,
)
from rlhf_forge.data.records import (
    Conversation,
    Demonstration,
    Pair,
    Prompt,
    Record,
    assistant,
    user,
)
from rlhf_forge.errors import UserError

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """One way to write preferences, demonstrations or prompts down.

    Attributes:
        name: As the detection prints it.
        keys: What a row has; all are needed.
        mapping: Which key becomes what, for the person to check.
        fits: Whether a row that has the keys has the right types too.
        read: (fields, origin) to a record.
    """

    name: str
    keys: tuple[str, ...]
    mapping: str
    fits: Callable[[Fields], bool]
    read: Callable[[dict[str, Any], str], Record]


def detect(rows: list[dict[str, Any]], source: str) -> Format:
    """The one format that the first rows of a data set have.

    Args:
        rows: Some rows, at most 200 are looked at.
        source: For the message.

    Raises:
        UserError: If no format fits, naming the nearest, or if two do.
    """
    sample = rows[:200]
    fitting = [f for f in FORMATS if _share(f, sample) > 0.5]
    rivals = [f for f in fitting if f.keys == fitting[0].keys] if fitting else []
    if len(rivals) > 1:
        names = " and ".join(f.name for f in rivals)
        raise UserError(f"{source}: fits two formats, {names}")
    if fitting:
        return fitting[0]
    raise _unknown(sample, source)


def _share(form: Format, rows: list[dict[str, Any]]) -> float:
    return sum(matches(form, fields) for fields in rows) / max(len(rows), 1)


def matches(form: Format, fields: Fields) -> bool:
    """Whether this row has the format's keys with the format's types."""
    return all(fields.get(key) is not None for key in form.keys) and form.fits(fields)


def _unknown(rows: list[dict[str, Any]], source: str) -> UserError:
    found = sorted({key for fields in rows for key in fields})
    nearest = max(
        FORMATS,
        key=lambda f: sum(bool(difflib.get_close_matches(k, found, cutoff=0.5)) for k in f.keys),
    )
    missing = [key for key in nearest.keys if key not in found]
    example = missing[0] if missing else nearest.keys[0]
    return UserError(
        f"{source}: no known format has the keys {', '.join(found) or '(none)'}; nearest: "
        f"{nearest.name} ({', '.join(nearest.keys)})",
        hint=f"if a column has another name: --data.map.{example}=NAME_IN_FILE",
    )


def _strings(*keys: str) -> Callable[[Fields], bool]:
    return lambda fields: all(isinstance(fields[key], str) for key in keys)


def _conversations(*keys: str) -> Callable[[Fields], bool]:
    return lambda fields: all(is_conversation(fields[key]) for key in keys)


def _transcripts(fields: Fields) -> bool:
    return is_transcript(fields["chosen"]) and is_transcript(fields["rejected"])


def _plain_pair(fields: Fields) -> bool:
    return all(isinstance(fields[key], str | list) for key in ("prompt", "chosen", "rejected"))


def _read_pair(fields: dict[str, Any], origin: str) -> Pair:
    prompt = prompt_of(fields["prompt"])
    chosen, rejected = answer(fields["chosen"], prompt), answer(fields["rejected"], prompt)
    return Pair(prompt, chosen, rejected, origin, fields)


def _read_implied(fields: dict[str, Any], origin: str) -> Pair:
    return Pair(*implied_pair(fields["chosen"], fields["rejected"]), origin, fields)


def _read_transcripts(fields: dict[str, Any], origin: str) -> Pair:
    return Pair(*transcript_pair(fields["chosen"], fields["rejected"]), origin, fields)


def _read_completion(fields: dict[str, Any], origin: str) -> Demonstration:
    prompt = prompt_of(fields["prompt"])
    return Demonstration(prompt, answer(fields["completion"], prompt), origin, fields)


def _read_instruction(fields: dict[str, Any], origin: str) -> Demonstration:
    prompt: Conversation = []
    if fields.get("system"):
        prompt.append({"role": "system", "content": fields["system"]})
    for asked, answered in fields.get("history") or []:
        prompt += user(asked) + assistant(answered)
    question = "\n".join(text for text in (fields["instruction"], fields.get("input")) if text)
    return Demonstration(prompt + user(question), assistant(fields["output"]), origin, fields)


def _read_messages(key: str) -> Callable[[dict[str, Any], str], Record]:
    def read(fields: dict[str, Any], origin: str) -> Record:
        turns = sharegpt(fields[key])
        if turns and turns[-1]["role"] == "user":
            return Prompt(turns, origin, fields)
        prompt, response = split_at_first_answer(turns)
        return Demonstration(prompt, response, origin, fields)

    return read


def _read_text(fields: dict[str, Any], origin: str) -> Demonstration:
    return Demonstration([], assistant(fields["text"]), origin, fields)


def _read_prompt(fields: dict[str, Any], origin: str) -> Prompt:
    return Prompt(prompt_of(fields["prompt"]), origin, fields)


FORMATS = (
    Format(
        "prompt, chosen, rejected",
        ("prompt", "chosen", "rejected"),
        "prompt -> prompt, chosen -> preferred answer, rejected -> other answer",
        _plain_pair,
        _read_pair,
    ),
    Format(
        "HH transcripts",
        ("chosen", "rejected"),
        "up to the last Assistant: -> prompt, the rest -> answers",
        _transcripts,
        _read_transcripts,
    ),
    Format(
        "whole conversations",
        ("chosen", "rejected"),
        "all turns but the last -> prompt, last turns -> answers",
        _conversations("chosen", "rejected"),
        _read_implied,
    ),
    Format(
        "prompt, completion",
        ("prompt", "completion"),
        "prompt -> prompt, completion -> response",
        lambda fields: all(isinstance(fields[key], str | list) for key in ("prompt", "completion")),
        _read_completion,
    ),
    Format(
        "instruction, output",
        ("instruction", "output"),
        "instruction + input -> prompt, output -> response",
        _strings("instruction", "output"),
        _read_instruction,
    ),
    Format(
        "messages",
        ("messages",),
        "turns before the first answer -> prompt, the rest -> response",
        _conversations("messages"),
        _read_messages("messages"),
    ),
    Format(
        "conversations",
        ("conversations",),
        "turns before the first answer -> prompt, the rest -> response",
        _conversations("conversations"),
        _read_messages("conversations"),
    ),
    Format(
        "prompt",
        ("prompt",),
        "prompt -> prompt",
        lambda fields: isinstance(fields["prompt"], str) or is_conversation(fields["prompt"]),
        _read_prompt,
    ),
    Format("text", ("text",), "text -> response, without prompt", _strings("text"), _read_text),
)
