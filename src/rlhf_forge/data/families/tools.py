"""What people's votes look like as the labelling and chat tools export them."""

import re
from collections.abc import Mapping
from typing import Any

from rlhf_forge.data.conversations import prompt_of
from rlhf_forge.data.format import Fields, Format
from rlhf_forge.data.preferences import Winner, compared, counted
from rlhf_forge.data.records import (
    BadRecord,
    Conversation,
    NoPreference,
    Pair,
    Record,
    assistant,
)
from rlhf_forge.data.values import (
    as_number,
    is_list,
    is_object,
    is_text,
    list_of,
    object_of,
    text_of,
)

STATUS = ".responses.status"
# How an owner may call an answer in a label, letters and digits only.
SIDES: Mapping[str, Winner | None] = {
    **dict.fromkeys(("1", "a", "first", "left", "response1", "answer1", "responsea"), "first"),
    **dict.fromkeys(("2", "b", "second", "right", "response2", "answer2", "responseb"), "second"),
    **dict.fromkeys(("tie", "both", "equal", "neither", "same"), None),
}
LONE_THUMB = "a lone thumb: no other answer to the same message"
NO_RATING = "no rating"


def _read_argilla(fields: Fields, origin: str) -> list[Record]:
    labels, statuses = (list_of(fields.get(key), key) for key in ("label", "status"))
    if len(labels) != len(statuses):
        raise BadRecord(f"unequal numbers: {len(labels)} labels and {len(statuses)} statuses")
    votes = [
        _side(label)
        for label, status in zip(labels, statuses, strict=True)
        if status == "submitted"
    ]
    answers = tuple(_answer(fields.get(key), key) for key in ("response_1", "response_2"))
    return compared(
        prompt_of(fields.get("prompt")), (answers[0], answers[1]), counted(votes), origin
    )


def _answer(value: Any, key: str) -> Conversation:
    return assistant(text_of(value, key))


def _side(label: Any) -> Winner | None:
    name = re.sub(r"[^a-z0-9]", "", str(label).lower())
    if name not in SIDES:
        raise BadRecord(f"label names neither answer: {label!r}")
    return SIDES[name]


def _read_label_studio(fields: Fields, origin: str) -> list[Record]:
    data = object_of(fields["data"], "data")
    votes = [
        vote
        for annotation in list_of(fields["annotations"], "annotations")
        for vote in _votes(object_of(annotation, "an annotation"))
    ]
    answers = _answer(data.get("answer1"), "answer1"), _answer(data.get("answer2"), "answer2")
    return compared(prompt_of(data.get("prompt")), answers, counted(votes), origin)


def _votes(annotation: Fields) -> list[Winner | None]:
    """What one annotator chose; nothing if the task was skipped."""
    if annotation.get("was_cancelled"):
        return []
    results = list_of(annotation.get("result"), "result")
    pairwise = [r for r in results if isinstance(r, dict) and r.get("type") == "pairwise"]
    return [_side(object_of(r.get("value"), "value").get("selected")) for r in pairwise]


def _read_open_webui(fields: Fields, origin: str) -> list[Record]:
    data = object_of(fields["data"], "data")
    messages = _messages(fields)
    rated = object_of(messages.get(_rated_id(fields)), "the rated message")
    prompt = _before(rated, messages)
    rating = as_number(data.get("rating"))
    if rating not in {1.0, -1.0}:
        return [NoPreference(prompt, NO_RATING, origin, {})]
    siblings = _siblings(rated, messages, data.get("sibling_model_ids"))
    if not siblings:
        return [NoPreference(prompt, LONE_THUMB, origin, {})]
    own = _answer(rated.get("content"), "a message")
    group = origin if len(siblings) > 1 else None
    others = [_answer(sibling.get("content"), "a message") for sibling in siblings]
    sides = [(own, other) if rating == 1 else (other, own) for other in others]
    return [Pair(prompt, *pair, origin, {}, group=group) for pair in sides]


def _messages(fields: Fields) -> Fields:
    """All messages of the chat as it was when the vote was given, by their id."""
    chat = object_of(object_of(fields["snapshot"], "snapshot").get("chat"), "snapshot.chat")
    inner = chat.get("chat") or chat
    history = object_of(object_of(inner, "chat").get("history"), "history")
    messages = object_of(history.get("messages"), "history.messages")
    # Parquet gives every chat every id of any chat.
    return {name: object_of(m, "a message") for name, m in messages.items() if m is not None}


def _rated_id(fields: Fields) -> str:
    return text_of(object_of(fields["meta"], "meta").get("message_id"), "meta.message_id")


def _before(message: Fields, messages: Fields) -> Conversation:
    """The turns that a message answers, from the first."""
    turns: Conversation = []
    seen: set[str] = set()
    parent = message.get("parentId")
    while parent is not None and parent not in seen:
        seen.add(parent)
        above = object_of(messages.get(parent), "a parent message")
        content = text_of(above.get("content"), "a message")
        turns.insert(0, {"role": text_of(above.get("role"), "a role"), "content": content})
        parent = above.get("parentId")
    return prompt_of(turns)


def _siblings(rated: Fields, messages: Fields, models: Any) -> list[Fields]:
    """Other answers to the same message, of the models that the vote compares where it says so."""
    found = [
        message
        for message in messages.values()
        if message is not rated
        and message.get("role") == "assistant"
        and message.get("parentId") == rated.get("parentId")
    ]
    return [m for m in found if not models or m.get("model") in models]


def _has_status(fields: Fields) -> bool:
    return any(key.endswith(STATUS) for key in fields)


TOOLS = (
    Format(
        name="argilla",
        gives="pairs",
        keys={},
        mapping="prompt -> prompt, label (of the responses whose status is submitted) decides "
        "between response_1 and response_2, the majority's share -> preference",
        read=_read_argilla,
        asked=("prompt", "response_1", "response_2", "label", "status"),
        ask="--data.map.prompt=FIELD --data.map.response_1=FIELD --data.map.response_2=FIELD "
        "--data.map.label=QUESTION.responses --data.map.status=QUESTION.responses.status",
        also=_has_status,
    ),
    Format(
        name="label-studio",
        gives="pairs",
        keys={"data": is_object, "annotations": is_list},
        mapping="data.prompt -> prompt, left: data.answer1 is preferred, right: data.answer2, the "
        "majority's share -> preference",
        read=_read_label_studio,
        also=lambda fields: all(
            is_text(fields["data"].get(key)) for key in ("prompt", "answer1", "answer2")
        ),
    ),
    Format(
        name="open-webui",
        gives="pairs",
        keys={"type": is_text, "data": is_object, "meta": is_object, "snapshot": is_object},
        mapping="turns before the rated message -> prompt, the rated message against each other "
        "answer in the snapshot -> answers, rating decides",
        read=_read_open_webui,
        private=("user", "user_id"),
        also=lambda fields: "rating" in fields["data"],
    ),
)
