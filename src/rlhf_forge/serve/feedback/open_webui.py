"""Ratings that Open WebUI exported, as votes.

Its file holds, for each rated answer, the whole chat. An answer that was rated up was preferred to
its siblings, the other answers to the same message, and one rated down was not. An answer without a
sibling is a thumb.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from rlhf_forge.data.files import Row
from rlhf_forge.data.records import BadRecord, BrokenLine, Conversation
from rlhf_forge.serve.feedback.votes import Side, Vote, pair_of

SOURCE = "open-webui"
ROLES = {"system", "user", "assistant"}
Messages = Mapping[str, Mapping[str, Any]]


def votes_in(feedback: Any) -> list[Vote]:
    """The votes in one exported rating, under ids of its own.

    Raises:
        BadRecord: If it cannot be used.
    """
    data, meta = _of(feedback, "data"), _of(feedback, "meta")
    if not isinstance(feedback.get("id"), str):
        raise BadRecord("no id")
    rating = {"1": 1, "-1": -1}.get(str(data.get("rating")))
    if rating is None:
        raise BadRecord("no rating")
    messages = _of(feedback, "snapshot", "chat", "chat", "history", "messages")
    rated = messages.get(str(meta.get("message_id")))
    if not isinstance(rated, Mapping):
        raise BadRecord("the rated message is not in the chat")
    thumb = Vote(
        id=f"{SOURCE}:{feedback['id']}",
        created_at=_time(feedback.get("created_at")),
        session="",
        annotator="",  # the user's id there is personal data here
        kind="thumb",
        source=SOURCE,
        messages=_turns_before(rated, messages),
        a=_side(rated),
        choice="up" if rating == 1 else "down",
        tags=tuple(str(tag) for tag in data.get("tags") or ()),
        comment=" ".join(str(data[k]) for k in ("reason", "comment") if data.get(k)),
    )
    siblings = list(_siblings(rated, messages, rating))
    blind = bool(meta.get("arena"))
    return [_against(thumb, *sibling, blind=blind) for sibling in siblings] or [thumb]


def read_feedback(rows: list[Row]) -> tuple[list[Vote], Counter[str]]:
    """The votes of all ratings, and how many could not be used, by reason."""
    votes: list[Vote] = []
    unused: Counter[str] = Counter()
    for _, row in rows:
        try:
            if isinstance(row, BrokenLine):
                raise row
            votes += votes_in(row)
        except BadRecord as reason:
            unused[str(reason)] += 1
    return votes, unused


def _against(thumb: Vote, name: str, sibling: Mapping[str, Any], *, blind: bool) -> Vote:
    """The comparison of a rated answer with one of its siblings."""
    other = _side(sibling)
    assert thumb.a is not None
    return replace(
        thumb,
        id=f"{thumb.id}:{name}",
        kind="comparison",
        pair=pair_of(thumb.messages or [], thumb.a, other),
        blind=blind,
        b=other,
        choice="a" if thumb.choice == "up" else "b",
    )


def _of(value: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping):
        raise BadRecord(f"no {'.'.join(keys)}")
    return value


def _turns_before(rated: Mapping[str, Any], messages: Messages) -> Conversation:
    """The conversation up to the rated answer, found by its parents."""
    turns: Conversation = []
    above, seen = rated.get("parentId"), set()
    while above is not None:
        message = messages.get(above)
        if not isinstance(message, Mapping) or above in seen:
            raise BadRecord("the chat is broken: a message's parent is missing")
        seen.add(above)
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise BadRecord("a turn before the answer is no text of system, user or assistant")
        turns.insert(0, {"role": message["role"], "content": message["content"]})
        above = message.get("parentId")
    if not turns or turns[-1]["role"] != "user":
        raise BadRecord("the rated message answers nothing")
    return turns


def _siblings(
    rated: Mapping[str, Any], messages: Messages, rating: int
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The other answers to the same message that were not rated the same."""
    for child in messages[rated["parentId"]].get("childrenIds") or ():
        sibling = messages.get(child)
        if child == rated.get("id") or not isinstance(sibling, Mapping):
            continue
        annotation = sibling.get("annotation")
        theirs = annotation.get("rating") if isinstance(annotation, Mapping) else None
        if str(theirs) == str(-rating) and rating == -1:
            continue  # told by the sibling's own rating
        if str(theirs) != str(rating) and isinstance(sibling.get("content"), str):
            yield str(child), sibling


def _side(message: Mapping[str, Any]) -> Side:
    content = message.get("content")
    if not isinstance(content, str):
        raise BadRecord("the rated message is no text")
    return Side(text=content, model=str(message.get("model") or ""))


def _time(seconds: Any) -> str:
    when = datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, int) else datetime.now(UTC)
    return when.isoformat(timespec="milliseconds")
