"""What a front end sends to POST /v1/feedback, and the vote it becomes."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from rlhf_forge.serve.errors import ApiError, parsed
from rlhf_forge.serve.feedback.flags import flags_of
from rlhf_forge.serve.feedback.votes import Choice, Letter, Side, Vote, pair_of
from rlhf_forge.serve.schemas import Messages, Strict, conversation

# No control characters: a name is one line.
Name = Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w:.-]+$")]


class Cast(Strict):
    """What every kind of feedback has.

    Attributes:
        id: Chosen by the sender, so that it may send again what was not acknowledged.
        session: One sitting.
        annotator: A name, if one was given. Nothing else about a person is taken or kept.
        source: The front end.
        tags: Free words.
        comment: Free text.
    """

    id: Id | None = None
    session: Name = ""
    annotator: Name = ""
    source: Name = "api"
    tags: list[Name] = Field(default_factory=list, max_length=32)
    comment: Annotated[str, Field(max_length=10_000)] = ""

    def row(self, **more: Any) -> Vote:
        """The vote, with the fields of its kind."""
        return Vote(
            id=self.id or str(uuid.uuid4()),
            created_at=now(),
            session=self.session.strip(),
            annotator=self.annotator.strip(),
            source=self.source,
            tags=tuple(self.tags),
            comment=self.comment,
            **more,
        )


class Comparison(Cast):
    """Two answers to one conversation, and which is better."""

    kind: Literal["comparison"]
    messages: Messages
    a: Side
    b: Side
    choice: Choice
    blind: bool = False
    pair: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    shown_left: Letter | None = None
    strength: Annotated[int, Field(ge=1, le=3)] | None = None
    seconds_to_vote: Annotated[float, Field(ge=0)] | None = None

    def vote(self, artefacts: Mapping[str, str]) -> Vote:
        """The row to store."""
        messages = conversation(self.messages)
        sides = (_signed(self.a, artefacts), _signed(self.b, artefacts))
        seconds = self.seconds_to_vote
        return self.row(
            kind="comparison",
            pair=self.pair or pair_of(messages, *sides),
            blind=self.blind,
            messages=messages,
            a=sides[0],
            b=sides[1],
            shown_left=self.shown_left,
            choice=self.choice,
            strength=self.strength,
            seconds_to_vote=seconds,
            flags=flags_of(sides, blind=self.blind, choice=self.choice, seconds_to_vote=seconds),
        )


class ThumbUpOrDown(Cast):
    """One answer, and whether it is good (1) or bad (-1)."""

    kind: Literal["thumb"]
    messages: Messages
    answer: Side
    rating: Literal[1, -1]

    def vote(self, artefacts: Mapping[str, str]) -> Vote:
        """The row to store."""
        return self.row(
            kind="thumb",
            messages=conversation(self.messages),
            a=_signed(self.answer, artefacts),
            choice="up" if self.rating == 1 else "down",
        )


class Undo(Cast):
    """Takes back a vote of the same person; both rows stay."""

    kind: Literal["undo"]
    undoes: Id

    def vote(self, artefacts: Mapping[str, str]) -> Vote:
        """The row to store."""
        return self.row(kind="undo", undoes=self.undoes)


KINDS: dict[str, type[Comparison | ThumbUpOrDown | Undo]] = {
    "comparison": Comparison,
    "thumb": ThumbUpOrDown,
    "undo": Undo,
}


class _Kind(BaseModel):
    kind: str = ""


def vote_in(body: bytes, artefacts: Mapping[str, str]) -> Vote:
    """The vote that a request's body holds.

    Args:
        body: JSON of a `Comparison`, `ThumbUpOrDown` or `Undo`.
        artefacts: Fingerprint of each model that is served here.

    Raises:
        ApiError: Naming the first field at fault.
    """
    kind = parsed(_Kind, body).kind
    if kind not in KINDS:
        message = f"kind: must be {', '.join(KINDS)}, got {kind!r}"
        raise ApiError(400, message, code="invalid_value", param="kind")
    return parsed(KINDS[kind], body).vote(artefacts)


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _signed(side: Side, artefacts: Mapping[str, str]) -> Side:
    if side.artefact is not None:
        return side
    return side.model_copy(update={"artefact": artefacts.get(side.model)})
