"""What a row of any format becomes."""

from dataclasses import dataclass
from typing import Any

Message = dict[str, str]
Conversation = list[Message]


class BadRecord(Exception):  # noqa: N818 - what it says, not that it is an error
    """A row that cannot be used; its text is the reason, in a few words."""


class BrokenLine(BadRecord):
    """A line of a file that is no row; the lines around it are read all the same.

    Args:
        reason: In a few words.
        text: The line as it was read; bytes that are no text stand in it as lone surrogates.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason)
        self.text = text


@dataclass(frozen=True)
class Demonstration:
    """A conversation whose assistant turns after ``prompt`` are to be learnt.

    Attributes:
        prompt: What comes first and is not learnt; may be empty.
        response: The rest; only its assistant turns are learnt.
        origin: Where the row stands: ``data.jsonl:12``.
        fields: The row as it was read.
    """

    prompt: Conversation
    response: Conversation
    origin: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, and which of them was preferred.

    Attributes:
        prompt: The conversation up to the answers.
        chosen: The preferred answer.
        rejected: The other.
        origin: Where the row stands.
        fields: The row as it was read.
        margin: By how much it was preferred, in the data's own unit: a gap of ratings, a strength.
        preference: Probability, in [0, 1], that ``chosen`` is the better one.
        source: Which part of the data set it is of, by the data's own word.
        group: Name of the ranking it is part of; all pairs of one group have one prompt.
    """

    prompt: Conversation
    chosen: Conversation
    rejected: Conversation
    origin: str
    fields: dict[str, Any]
    margin: float | None = None
    preference: float | None = None
    source: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Prompt:
    """A conversation waiting for an answer.

    Attributes:
        prompt: The conversation; its last turn is the user's.
        origin: Where the row stands.
        fields: The row as it was read.
    """

    prompt: Conversation
    origin: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class NoPreference:
    """Answers to one prompt of which none is known to be the better one.

    Attributes:
        prompt: The conversation up to the answers; empty if there is none.
        reason: Under which it is counted: tie, both bad, equal scores.
        origin: Where the row stands.
        fields: The row as it was read.
    """

    prompt: Conversation
    reason: str
    origin: str
    fields: dict[str, Any]


Record = Demonstration | Pair | Prompt | NoPreference


def user(text: str) -> Conversation:
    """One user turn."""
    return [{"role": "user", "content": text}]


def assistant(text: str) -> Conversation:
    """One assistant turn."""
    return [{"role": "assistant", "content": text}]
