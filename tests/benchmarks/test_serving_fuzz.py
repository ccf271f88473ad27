"""The document that is fuzzed asks for less than the server takes, and for nothing else."""

from importlib import import_module
from typing import Any

TEXT = {"type": "string", "maxLength": 1_000_000, "minLength": 1}


def narrowed(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = import_module("serving_fuzz").narrowed(schema)
    return found


def test_bounds_become_smaller_and_none_becomes_larger() -> None:
    short = {"type": "array", "maxItems": 2, "items": TEXT}
    found = narrowed({"properties": {"prompt": TEXT, "stop": short}})["properties"]
    assert found["prompt"] == {"type": "string", "maxLength": 200, "minLength": 1}
    assert found["stop"]["maxItems"] == 2


def test_answers_are_short_and_names_stay() -> None:
    limit: dict[str, Any] = {"title": "Max Tokens", "anyOf": [{"type": "integer", "minimum": 1}]}
    assert narrowed(limit)["anyOf"][0]["maximum"] == 16
    model = {"type": "string", "enum": ["base", "ppo"]}
    assert narrowed(model) == model
