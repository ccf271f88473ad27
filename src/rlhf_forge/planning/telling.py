"""What is told of a plan, in lines: by `plan`, and by `fit` when it starts."""

from collections.abc import Iterator

from rlhf_forge.planning.look import Look
from rlhf_forge.planning.plan import Plan
from rlhf_forge.planning.sizes import gib
from rlhf_forge.planning.verdict import Change, one_change, several_changes, word_of


def verdict_line(plan: Plan, available: int, where: str) -> str:
    """Whether it fits, in one line."""
    return (
        f"{word_of(plan, available)}: {gib(plan.expected)} expected, {gib(plan.low)} to "
        f"{gib(plan.high)} possible, of {gib(available)} {where}"
    )


def where_of(look: Look, memory: int | None = None) -> str:
    """Of what memory is spoken."""
    device = "GPU" if look.setup.cuda else "CPU"
    return f"free on this {device}" if memory is None else f"on a {device}"


def hint_of(look: Look, available: int) -> str:
    """What to change, in one line."""
    return "; ".join(ways_out(look, available))


def ways_out(look: Look, available: int) -> Iterator[str]:
    """The one key that makes it fit; if there is none, several."""
    one = one_change(look.setup, look.planned, available)
    if one is not None:
        yield f"change: {_typed(one)}: {_expects(look, one)}"
        return
    several = several_changes(look.setup, look.planned, available)
    if several is not None:
        yield f"change: {_typed(several)}: {_expects(look, several)}"
        return
    yield "change: no setting of memory makes it fit; lower data.max_length, or take a smaller base"


def _typed(change: Change) -> str:
    return " ".join(f"--{key} {value}" for key, value in change.keys.items())


def _expects(look: Look, change: Change) -> str:
    plan = look.planned(change.setup)
    return f"{gib(plan.expected)} expected, {gib(plan.high)} at most"
