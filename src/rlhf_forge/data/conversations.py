"""Turns, transcripts, and where the answer in them begins."""

from typing import Any

from rlhf_forge.data.records import BadRecord, Conversation, assistant, user

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
SHAREGPT_ROLES = {
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
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(turn, dict)
            and ({"role", "content"} <= set(turn) or {"from", "value"} <= set(turn))
            for turn in value
        )
    )


def is_transcript(value: Any) -> bool:
    """Whether ``value`` is a text of Human: and Assistant: turns as HH-RLHF writes them."""
    return isinstance(value, str) and value.startswith(HUMAN) and ASSISTANT in value


def sharegpt(turns: list[dict[str, Any]]) -> Conversation:
    """Turns as {role, content}, whichever of the two ways they are written.

    Raises:
        BadRecord: For an unknown role or a content that is no text.
    """
    conversation = []
    for turn in turns:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if role not in SHAREGPT_ROLES:
            raise BadRecord(f"unknown role {role!r}")
        if not isinstance(content, str):
            raise BadRecord(f"a turn's content is {type(content).__name__}, not text")
        conversation.append({"role": SHAREGPT_ROLES[role], "content": content})
    return conversation


def prompt_of(value: Any) -> Conversation:
    """A prompt given as text or as turns, which must end with the user's.

    Raises:
        BadRecord: If it is neither, is empty, or ends with an answer.
    """
    if isinstance(value, str):
        if not value.strip():
            raise BadRecord("empty prompt")
        return user(value)
    if not is_conversation(value):
        raise BadRecord(f"prompt is {type(value).__name__}, neither text nor turns")
    turns = sharegpt(value)
    if turns[-1]["role"] == "assistant":
        raise BadRecord("the prompt ends with an answer: the last turn must not be the assistant's")
    return turns


def answer(value: Any, prompt: Conversation) -> Conversation:
    """An answer given as text or as turns; turns that repeat the prompt are taken off.

    Raises:
        BadRecord: If it is neither, is empty, or has more than the answer in it.
    """
    if isinstance(value, str):
        turns = assistant(value)
    elif is_conversation(value):
        turns = sharegpt(value)
        if turns[: len(prompt)] == prompt:
            turns = turns[len(prompt) :]
    else:
        raise BadRecord(f"an answer is {type(value).__name__}, neither text nor turns")
    if not turns or turns[0]["role"] != "assistant":
        raise BadRecord("an answer does not begin with an assistant turn")
    require_answered(turns)
    return turns


def require_answered(turns: Conversation) -> None:
    """Raise `BadRecord` unless the last turn is an assistant's and says something."""
    if not turns or turns[-1]["role"] != "assistant":
        raise BadRecord("the last turn is not the assistant's")
    if not turns[-1]["content"].strip():
        raise BadRecord("empty response")


def split_at_first_answer(turns: Conversation) -> tuple[Conversation, Conversation]:
    """What comes before the first assistant turn, and the rest.

    Raises:
        BadRecord: If nobody answers, or the last answer is empty.
    """
    require_answered(turns)
    first = next(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
    return turns[:first], turns[first:]


def implied_pair(chosen: Any, rejected: Any) -> tuple[Conversation, Conversation, Conversation]:
    """Prompt and answers of two whole conversations that differ in the last turn only.

    Raises:
        BadRecord: If they differ before it, or an answer is missing or empty.
    """
    if not (is_conversation(chosen) and is_conversation(rejected)):
        raise BadRecord("chosen or rejected is not a conversation")
    chosen_turns, rejected_turns = sharegpt(chosen), sharegpt(rejected)
    return _same_context(chosen_turns, rejected_turns)


def transcript_pair(chosen: Any, rejected: Any) -> tuple[Conversation, Conversation, Conversation]:
    """Prompt and answers of two HH transcripts, split at the last ``Assistant:``.

    Raises:
        BadRecord: If one is no transcript, they differ before the answer, or an answer is empty.
    """
    if not (is_transcript(chosen) and is_transcript(rejected)):
        raise BadRecord("chosen or rejected is not a Human:/Assistant: transcript")
    return _same_context(transcript(chosen), transcript(rejected))


def transcript(text: str) -> Conversation:
    """The turns of an HH transcript.

    Raises:
        BadRecord: If it does not begin with ``Human:``.
    """
    turns: Conversation = []
    rest = text
    while rest:
        marker, role = (HUMAN, "user") if rest.startswith(HUMAN) else (ASSISTANT, "assistant")
        if not rest.startswith(marker):
            raise BadRecord("a transcript must begin with a Human: turn")
        rest = rest[len(marker) :]
        ends = [at for at in (rest.find(HUMAN), rest.find(ASSISTANT)) if at >= 0]
        end = min(ends, default=len(rest))
        turns.append({"role": role, "content": rest[:end].strip()})
        rest = rest[end:]
    return turns


def _same_context(
    chosen: Conversation, rejected: Conversation
) -> tuple[Conversation, Conversation, Conversation]:
    for side in (chosen, rejected):
        require_answered(side)
    if chosen[:-1] != rejected[:-1]:
        raise BadRecord("chosen and rejected differ before their last turn")
    return chosen[:-1], chosen[-1:], rejected[-1:]
