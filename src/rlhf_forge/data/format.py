"""What a format is: the keys and types that tell it, and how a row of it is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_forge.data.records import Record

Kind = Literal["demonstrations", "pairs", "prompts"]
Fields = Mapping[str, Any]
Test = Callable[[Any], bool]


@dataclass(frozen=True)
class Refusal:
    """Why a format is not read.

    Attributes:
        why: In the message, behind the file's name.
        hint: What to do instead.
        unless_named: Whether the person may insist on it by data.format.
    """

    why: str
    hint: str
    unless_named: bool = False


@dataclass(frozen=True)
class Format:
    """One way to write preferences, demonstrations or prompts down.

    Attributes:
        name: As it is printed, and typed behind ``--data.format``.
        gives: What its records are at most: a pair is also a demonstration and a prompt.
        keys: What a row has, each with the test of its type; ``a|b`` is met by either.
        mapping: Which key becomes what, for the person to check.
        read: (fields, origin) to the records of one row, the best answer first; raises `BadRecord`.
        optional: Further keys it reads.
        asked: Keys that no file has: the person says by ``data.map`` which column is meant.
        ask: What to type for them.
        private: Keys that are dropped when a row is read.
        also: What else holds of a row of this format.
        refusal: Why it is not read; None if it is.
    """

    name: str
    gives: Kind
    keys: Mapping[str, Test]
    mapping: str
    read: Callable[[Fields, str], list[Record]]
    optional: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    ask: str = ""
    private: tuple[str, ...] = ()
    also: Callable[[Fields], bool] = lambda fields: True
    refusal: Refusal | None = None

    def matches(self, fields: Fields) -> bool:
        """Whether this row has the format's keys with the format's types."""
        return all(_met(fields, key, test) for key, test in self.keys.items()) and self.also(fields)

    @property
    def names(self) -> list[str]:
        """All keys that it reads, each by itself."""
        whole = (*self.keys, *self.optional, *self.asked)
        return [name for key in whole for name in key.split("|")]


def either(fields: Fields, key: str) -> tuple[str, Any]:
    """The first of the keys ``a|b`` that a row has, and its value; the last with None if none."""
    names = key.split("|")
    found = next((name for name in names if fields.get(name) is not None), names[-1])
    return found, fields.get(found)


def nothing(fields: Fields, origin: str) -> list[Record]:
    """The reader of a format that is refused before anything is read."""
    raise AssertionError("a refused format is not read")


def _met(fields: Fields, key: str, test: Test) -> bool:
    value = either(fields, key)[1]
    return value is not None and test(value)
