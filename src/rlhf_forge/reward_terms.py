"""What the key ``reward`` of a config names: a reward model, functions, or a sum of these.

It is none, one source, or a list of terms; a source is an artefact's folder or a module:function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RewardTerm:
    """One of several sources whose scores are added.

    Args:
        source: Artefact of a reward stage, or module:function; none: <run>/reward/artefact.
        weight: What its scores are multiplied by.
    """

    source: str | None = None
    weight: float = 1.0


def names_function(source: str | None) -> bool:
    """Whether a source is a Python function and not an artefact."""
    return source is not None and ":" in source


def terms_of(reward: Sequence[RewardTerm] | str | None) -> tuple[RewardTerm, ...]:
    """The key's value as terms."""
    if reward is None or isinstance(reward, str):
        return (RewardTerm(reward),)
    return tuple(reward)


def artefact_in(reward: Any) -> str | None:
    """The artefact that a parsed config's value names first; None if it names none."""
    sources = [term["source"] for term in reward] if isinstance(reward, list) else [reward]
    return next((source for source in sources if source and not names_function(source)), None)


def filled_in(reward: Any, artefact: str) -> Any:
    """A parsed config's value with ``artefact`` where it names no source."""
    if not isinstance(reward, list):
        return artefact if reward is None else reward
    for term in reward:
        if term["source"] is None:
            term["source"] = artefact
    return reward
