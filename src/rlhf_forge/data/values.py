"""Values of a row, refused in words if they are not of the kind that is wanted."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from rlhf_forge.data.records import BadRecord


def text_of(value: Any, key: str) -> str:
    """``value`` if it is text.

    Raises:
        BadRecord: If it is not.
    """
    if not isinstance(value, str):
        raise BadRecord(f"{key} is {but(value, 'text')}")
    return value


def number_of(value: Any, key: str) -> float:
    """A number, also where it is written as text, as in CSV.

    Raises:
        BadRecord: If it is none, or not finite.
    """
    found = as_number(value)
    if found is None:
        raise BadRecord(f"{key} is {but(value, 'a number')}")
    return found


def as_number(value: Any) -> float | None:
    """The finite number that ``value`` is or spells; None for all else, true and false too."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if isfinite(found) else None


def list_of(value: Any, key: str) -> list[Any]:
    """``value`` if it is a list.

    Raises:
        BadRecord: If it is not.
    """
    if not isinstance(value, list):
        raise BadRecord(f"{key} is {but(value, 'a list')}")
    return value


def object_of(value: Any, key: str) -> Mapping[str, Any]:
    """``value`` if it has keys.

    Raises:
        BadRecord: If it has not.
    """
    if not isinstance(value, dict):
        raise BadRecord(f"{key} is {but(value, 'an object')}")
    return value


def unpacked(value: Any) -> Any:
    """A list that is written as JSON inside a text; all else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, list) else value
    return value


def but(value: Any, wanted: str) -> str:
    """What ``value`` is, and is wanted to be."""
    return "missing" if value is None else f"a {type(value).__name__}, not {wanted}"


def is_text(value: Any) -> bool:
    """Whether ``value`` is text."""
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number or spells one."""
    return as_number(value) is not None


def is_list(value: Any) -> bool:
    """Whether ``value`` is a list."""
    return isinstance(value, list)


def is_object(value: Any) -> bool:
    """Whether ``value`` has keys."""
    return isinstance(value, dict)


def is_list_of_texts(value: Any) -> bool:
    """Whether ``value`` is a list of texts, and not empty."""
    return isinstance(value, list) and bool(value) and all(map(is_text, value))


def is_list_with(*keys: str) -> Any:
    """A test for lists of objects that all have these keys."""

    def test(value: Any) -> bool:
        return is_list(value) and bool(value) and all(_has(item, keys) for item in value)

    return test


def _has(item: Any, keys: tuple[str, ...]) -> bool:
    return isinstance(item, dict) and item.keys() >= set(keys)
