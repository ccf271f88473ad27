"""Turns, transcripts, and where the answer in them begins."""

import re
from typing import Any

from rlhf_forge.data.records import BadRecord, Conversation, assistant, user
from rlhf_forge.data.values import but, text_of

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
TRANSCRIPT_TURN = re.compile(rf"{HUMAN}|{ASSISTANT}")
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}


def is_conversation(value: Any) -> bool:
    """Whether ``value`` is a list of {role, content} or {from, value} turns."""
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def is_answer(value: Any) -> bool:
    """Whether ``value`` is text, or a list of turns."""
    return isinstance(value, str) or is_conversation(value)


def is_turn(value: Any) -> bool:
    """Whether ``value`` is one {role, content} or {from, value} turn."""
    return isinstance(value, dict) and (
        {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
    )


def is_transcript(value: Any) -> bool:
    """Whether ``value`` is a text of Human: and Assistant: turns as HH-RLHF writes them."""
    return isinstance(value, str) and value.startswith(HUMAN) and ASSISTANT in value


def turns_of(value: Any, key: str) -> Conversation:
    """Turns as {role, content}, whichever of the two ways they are written.

    Raises:
        BadRecord: If ``value`` is no list of turns, or a turn's role or content is not to be used.
    """
    if not is_conversation(value):
        raise BadRecord(f"{key} is {but(value, 'a list of turns')}")
    conversation = []
    for turn in value:
        # Parquet gives every turn every key of any turn, with null for those it has not.
        ours = turn.get("role") is not None
        role = text_of(turn["role"] if ours else turn.get("from"), f"a role in {key}")
        if role not in ROLES:
            raise BadRecord(f"unknown role: {role!r} in {key}")
        content = text_of(turn["content"] if ours else turn.get("value"), f"a turn of {key}")
        conversation.append({"role": ROLES[role], "content": content})
    return conversation


def prompt_of(value: Any) -> Conversation:
    """A prompt given as text, as an HH transcript or as turns, waiting for an answer.

    Raises:
        BadRecord: If it is none of them, or ends with an answer.
    """
    if isinstance(value, str) and value.startswith(HUMAN):
        turns = transcript(value)
        # What stands behind the last ``Assistant:`` of a prompt is the answer's place.
        return turns[:-1] if turns[-1] == assistant("")[0] else _unanswered(turns)
    if isinstance(value, str):
        return user(value)
    return _unanswered(turns_of(value, "prompt"))


def _unanswered(turns: Conversation) -> Conversation:
    if turns[-1]["role"] == "assistant":
        raise BadRecord("the prompt ends with an answer")
    return turns


def answer_of(value: Any, key: str, prompt: Conversation) -> Conversation:
    """An answer given as text or as turns; turns that repeat the prompt are taken off.

    Raises:
        BadRecord: If it is neither, or does not begin and end with an assistant turn.
    """
    if isinstance(value, str):
        return assistant(value)
    turns = turns_of(value, key)
    if turns[: len(prompt)] == prompt:
        turns = turns[len(prompt) :]
    if not turns or turns[0]["role"] != "assistant":
        raise BadRecord(f"{key} neither begins with the assistant nor repeats the prompt")
    return _answered(turns, key)


def _answered(turns: Conversation, key: str) -> Conversation:
    if turns[-1]["role"] != "assistant":
        raise BadRecord(f"the last turn of {key} is not the assistant's")
    return turns


def split_at_first_answer(turns: Conversation, key: str) -> tuple[Conversation, Conversation]:
    """What comes before the first assistant turn, and the rest.

    Raises:
        BadRecord: If the last turn is no answer.
    """
    roles = [turn["role"] for turn in _answered(turns, key)]
    first = roles.index("assistant")
    return turns[:first], turns[first:]


def implied_pair(
    chosen: Conversation, rejected: Conversation
) -> tuple[Conversation, Conversation, Conversation]:
    """Prompt and answers of two whole conversations that differ in the last turn only.

    Raises:
        BadRecord: If they differ before it, or it is no answer.
    """
    if chosen[:-1] != rejected[:-1]:
        raise BadRecord("chosen and rejected differ before their last turn")
    return chosen[:-1], _answered(chosen[-1:], "chosen"), _answered(rejected[-1:], "rejected")


def transcript_pair(chosen: Any, rejected: Any) -> tuple[Conversation, Conversation, Conversation]:
    """Prompt and answers of two HH transcripts, split at the last ``Assistant:``.

    Raises:
        BadRecord: If one is no transcript, or they differ before the last turn.
    """
    for key, value in (("chosen", chosen), ("rejected", rejected)):
        if not is_transcript(value):
            raise BadRecord(f"{key} is not a transcript of Human and Assistant turns")
    return implied_pair(transcript(chosen), transcript(rejected))


def transcript(text: str) -> Conversation:
    """The turns of an HH transcript, without the blanks around them."""
    markers = TRANSCRIPT_TURN.findall(text)
    _, *contents = TRANSCRIPT_TURN.split(text)
    return [
        {"role": "user" if marker == HUMAN else "assistant", "content": content.strip()}
        for marker, content in zip(markers, contents, strict=True)
    ]
