"""Judges for the tiny project, which a config names by path."""

from typing import Any

CALLS: list[int] = []


def falls(prompts: list[Any], responses: list[str], records: list[Any]) -> list[float]:
    """Less by 1 at every call of a process; its scores of one call differ a little."""
    CALLS.append(len(responses))
    return [row / 10 - len(CALLS) for row in range(len(responses))]


def letters(prompts: list[Any], responses: list[str], records: list[Any]) -> list[float]:
    """A score of the response alone."""
    return [float(len(set(response))) for response in responses]
