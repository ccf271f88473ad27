"""Does it fit, and if not, which key to change to what."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from rlhf_forge.backbone.config import Precision
from rlhf_forge.planning.plan import Plan
from rlhf_forge.planning.setup import Setup

Word = Literal["fits", "tight", "does not fit"]
# Less is computed at once down to here: below, a GPU has nothing to do.
LEAST_TOKENS = 256
LOWER: dict[Precision, tuple[Precision, ...]] = {
    "fp32": ("bf16", "nf4"),
    "bf16": ("nf4",),
    "nf4": (),
}
# Gives the plan of a changed setup.
Planned = Callable[[Setup], Plan]


@dataclass(frozen=True)
class Change:
    """Keys with new values, and the setup that they make."""

    keys: dict[str, str]
    setup: Setup


def word_of(plan: Plan, available: int) -> Word:
    """fits: even the worst step; tight: the expected peak does; does not fit: not even that."""
    if plan.high <= available:
        return "fits"
    return "tight" if plan.expected <= available else "does not fit"


def one_change(setup: Setup, planned: Planned, available: int) -> Change | None:
    """The one key that makes it fit, cheapest first; None if no single one does."""
    for change in _single(setup):
        if word_of(planned(change.setup), available) == "fits":
            return change
    return None


def several_changes(setup: Setup, planned: Planned, available: int) -> Change | None:
    """The settings that fit, those of the config where they do; None if none do.

    Slower ones come later: less at once, then layers computed twice, then fewer bits.
    """
    for precise in _precisions(setup):
        for recomputing in _checkpointing(precise):
            for change in _smaller(recomputing):
                if word_of(planned(change.setup), available) == "fits":
                    return change
    return None


def _single(setup: Setup) -> Iterator[Change]:
    start = Change({}, setup)
    changes = (
        *_halved(start, "micro_batch_tokens", LEAST_TOKENS),
        *_checkpointing(start),
        *_halved(start, "generated", 1),
        *_precisions(setup),
    )
    yield from (change for change in changes if change.keys)


def _precisions(setup: Setup) -> Iterator[Change]:
    yield Change({}, setup)
    for precision in LOWER[setup.precision]:
        key = "model.init_args.backbone.precision"
        yield Change({key: precision}, replace(setup, precision=precision))


def _checkpointing(change: Change) -> Iterator[Change]:
    yield change
    if not change.setup.recomputes:
        key = "model.init_args.backbone.gradient_checkpointing"
        yield Change(change.keys | {key: "true"}, replace(change.setup, recomputes=True))


def _smaller(change: Change) -> Iterator[Change]:
    """Less in the update and less in generation: each as little as it must be."""
    for fewer in (change, *_halved(change, "micro_batch_tokens", LEAST_TOKENS)):
        yield fewer
        yield from _halved(fewer, "generated", 1)


def _halved(change: Change, name: str, least: int) -> Iterator[Change]:
    setup = change.setup
    size = getattr(setup, name) // 2
    while size >= least:
        value: dict[str, Any] = {name: size}
        yield Change(change.keys | {_key(setup, name): str(size)}, replace(setup, **value))
        size //= 2


def _key(setup: Setup, name: str) -> str:
    """Where a config has it."""
    if setup.stage != "ppo":
        return f"model.init_args.{'max_rows' if name == 'generated' else name}"
    group = "rollout.max_rows" if name == "generated" else f"updates.{name}"
    return f"model.init_args.{group}"
