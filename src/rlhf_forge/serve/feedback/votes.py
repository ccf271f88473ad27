"""A vote: what was asked, what was shown, what was chosen."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from rlhf_forge.data.records import Conversation
from rlhf_forge.serve.schemas import Strict, Text

Kind = Literal["comparison", "thumb", "undo"]
Letter = Literal["a", "b"]
Choice = Literal["a", "b", "tie", "both_bad", "skip"]
Thumb = Literal["up", "down"]
CUT = "cut_by_vote"


class Side(Strict):
    """One of the answers, as it was shown.

    Attributes:
        text: All of it that was shown.
        model: The name it was asked for by.
        artefact: Fingerprint of that model; the server adds it to answers of its own models.
        seed: Gives the same answer again; null if none was set.
        sampling: Temperature and its like.
        finish_reason: stop or length as the server said, cut_by_vote, or error.
        tokens: Of the answer, if they were counted.
        latency_ms: Until the answer was there, in milliseconds.
    """

    text: Text
    model: Annotated[str, Field(max_length=200)]
    artefact: Annotated[str, Field(max_length=200)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    sampling: dict[str, float] = Field(default_factory=dict, max_length=16)
    finish_reason: Annotated[str, Field(max_length=40)] | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None
    latency_ms: Annotated[float, Field(ge=0)] | None = None


@dataclass(frozen=True)
class Vote:
    """One row of the table; nothing in it is ever changed.

    Attributes:
        id: Chosen by whoever casts it, so that a vote sent twice is one vote.
        created_at: UTC, when it was stored.
        session: One opening of the page, or whatever a front end calls so.
        annotator: The name typed, or "".
        kind: comparison, thumb (one answer, up or down) or undo.
        source: Which front end it came from.
        pair: The same for votes on the same two answers; "" for other kinds.
        blind: Whether the models' names were hidden.
        messages: The conversation that was answered.
        a: One answer; of a thumb the only one.
        b: The other.
        shown_left: Which of them stood on the left; null if that is not known.
        choice: Of a comparison `Choice`, of a thumb `Thumb`.
        strength: 1 slightly to 3 much better; null if it was not said.
        tags: Free words.
        comment: Free text.
        seconds_to_vote: Since both answers could be read.
        flags: What speaks against using it; see `flags`.
        undoes: Id of the vote that an undo takes back.
    """

    id: str
    created_at: str
    session: str
    annotator: str
    kind: Kind
    source: str
    pair: str = ""
    blind: bool | None = None
    messages: Conversation | None = None
    a: Side | None = None
    b: Side | None = None
    shown_left: Letter | None = None
    choice: Choice | Thumb | None = None
    strength: int | None = None
    tags: tuple[str, ...] = ()
    comment: str = ""
    seconds_to_vote: float | None = None
    flags: tuple[str, ...] = ()
    undoes: str | None = None

    @property
    def who(self) -> tuple[str, str]:
        """Whom the vote is counted under."""
        return person(self.annotator, self.session)

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both answers of a comparison."""
        assert self.a is not None
        assert self.b is not None
        return self.a, self.b

    @property
    def decided(self) -> bool:
        """Whether one answer was preferred to the other."""
        return self.choice in {"a", "b"}


def person(annotator: str, session: str) -> tuple[str, str]:
    """Whom votes are counted under: a name, or the session of one who gave none."""
    return ("name", annotator) if annotator else ("session", session)


def pair_of(messages: Conversation, a: Side, b: Side) -> str:
    """A name for two answers to one conversation; the same wherever they are shown again."""
    text = json.dumps([messages, a.text, b.text], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def standing(votes: Iterable[Vote]) -> list[Vote]:
    """The votes that were not taken back, in their order, without the undos."""
    votes = list(votes)
    undone = {vote.undoes for vote in votes}
    return [vote for vote in votes if vote.kind != "undo" and vote.id not in undone]


def first_looks(votes: Iterable[Vote]) -> tuple[list[Vote], list[tuple[Vote, Vote]]]:
    """Each person's first vote on each pair, and the later ones with the first they repeat."""
    first: dict[tuple[tuple[str, str], str], Vote] = {}
    repeated = []
    for vote in votes:
        key = (vote.who, vote.pair)
        if key in first:
            repeated.append((first[key], vote))
        else:
            first[key] = vote
    return list(first.values()), repeated
