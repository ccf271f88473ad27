"""What a Go template writes, for the subset that we write: a second reader of it, not ours.

Actions: ``range $at, $turn := .Messages``, ``if``, ``else if``, ``else``, ``end``, strings, fields
of ``$turn`` and of ``$``, ``eq`` and ``and`` with parentheses; ``{{-`` takes the white space before
it. Whatever else stands in a template is refused.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

PARTS = re.compile(r"(\{\{-? ?.*?\}\})", re.DOTALL)
WORDS = re.compile(r'"(?:\\.|[^"\\])*"|[()]|[^\s()]+')
RANGE = "range $at, $turn := .Messages"
Conversation = Sequence[dict[str, str]]


def fill(text: str, messages: Conversation) -> str:
    """The template filled in as Ollama does: equal roles in a row are one turn."""
    turns: list[dict[str, str]] = []
    for message in messages:
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1] = turns[-1] | {"content": f"{turns[-1]['content']}\n\n{message['content']}"}
        else:
            turns.append(dict(message))
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    parts = list(_parts(text))
    out, rest = _block(parts, {"$": {"Messages": turns, "System": system}})
    assert not rest
    return out


def _parts(text: str) -> Iterator[tuple[bool, str]]:
    """Texts and actions; an action without its braces."""
    pieces = PARTS.split(text)
    for at, piece in enumerate(pieces):
        if at % 2:
            yield True, piece.removeprefix("{{").removeprefix("-").removesuffix("}}").strip()
        else:
            trimmed = at + 1 < len(pieces) and pieces[at + 1].startswith("{{-")
            yield False, piece.rstrip() if trimmed else piece


def _block(parts: list[tuple[bool, str]], names: dict[str, Any]) -> tuple[str, Any]:
    """What is written up to an end or else, and what stands from there on."""
    out = ""
    while parts:
        action, text = parts[0]
        if action and (text == "end" or text.startswith("else")):
            return out, parts
        parts = parts[1:]
        if not action:
            out += text
        elif text == RANGE:
            body = parts
            for at, turn in enumerate(names["$"]["Messages"]):
                fields = {"Role": turn["role"], "Content": turn["content"]}
                written, _ = _block(body, names | {"$at": at, "$turn": fields})
                out += written
            _, parts = _block(body, names | {"$at": 0, "$turn": {"Role": "", "Content": ""}})
            assert parts[0] == (True, "end")
            parts = parts[1:]
        elif text.startswith("if "):
            written, parts = _branches(text.removeprefix("if "), parts, names)
            out += written
        else:
            out += str(_value(text, names))
    return out, parts


def _branches(
    condition: str, parts: list[tuple[bool, str]], names: dict[str, Any]
) -> tuple[str, list[tuple[bool, str]]]:
    out, done, holds = "", False, bool(_value(condition, names))
    while True:
        written, parts = _block(parts, names)
        if holds and not done:
            out, done = written, True
        _, text = parts[0]
        parts = parts[1:]
        if text == "end":
            return out, parts
        condition = text.removeprefix("else").strip()
        assert not condition or condition.startswith("if ")
        holds = not condition or bool(_value(condition.removeprefix("if "), names))


def _value(text: str, names: dict[str, Any]) -> Any:
    value, rest = _call(WORDS.findall(text), names)
    assert not rest, f"not in the subset: {text}"
    return value


def _call(words: list[str], names: dict[str, Any]) -> tuple[Any, list[str]]:
    if words[0] not in {"eq", "and"}:
        return _operand(words, names)
    one, rest = _operand(words[1:], names)
    other, rest = _operand(rest, names)
    return (one == other) if words[0] == "eq" else (one and other), rest


def _operand(words: list[str], names: dict[str, Any]) -> tuple[Any, list[str]]:
    word, *rest = words
    if word == "(":
        value, rest = _call(rest, names)
        assert rest[0] == ")"
        return value, rest[1:]
    if word.startswith('"'):
        return json.loads(word), rest
    if word.isdigit():
        return int(word), rest
    name, _, field = word.partition(".")
    return (names[name][field] if field else names[name]), rest
