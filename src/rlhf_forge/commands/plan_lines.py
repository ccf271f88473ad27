"""What ``plan`` prints, line by line."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from rlhf_forge.errors import UserError
from rlhf_forge.planning.demand import MOST_STEPS
from rlhf_forge.planning.duration import duration_of
from rlhf_forge.planning.plan import Plan
from rlhf_forge.planning.telling import verdict_line, ways_out, where_of
from rlhf_forge.planning.verdict import word_of

if TYPE_CHECKING:
    from rlhf_forge.parsed_stage import ParsedStage
    from rlhf_forge.planning.look import Look


def lines_of(
    stage: "ParsedStage", look: "Look", available: int, memory: int | None, unread: str
) -> Iterator[str]:
    """The verdict first, then what to change, memory part by part, and time.

    Args:
        stage: As parsed.
        look: At it.
        available: Bytes.
        memory: Bytes that were asked for; None: those that are free here.
        unread: Why the data was not read; empty if it was.
    """
    plan = look.plan
    yield verdict_line(plan, available, where_of(look, memory))
    word = word_of(plan, available)
    if word != "fits":
        yield from ways_out(look, available)
    elif memory is not None:
        yield "settings: those of the config fit"
    yield ""
    yield from _table(plan)
    yield ""
    yield _lengths(stage, look, unread)
    yield from _time(stage, look)


def _table(plan: Plan) -> Iterator[str]:
    """In MiB, a row for each part."""
    rows = [(part.name, part.low, part.expected, part.high) for part in plan.parts]
    rows.append(("total", plan.low, plan.expected, plan.high))
    yield f"{'MiB':<18}{'low':>9}{'expected':>10}{'high':>9}"
    for name, *sizes in rows:
        low, expected, high = (f"{size / 2**20:,.0f}" for size in sizes)
        yield f"{name:<18}{low:>9}{expected:>10}{high:>9}"


def _lengths(stage: "ParsedStage", look: "Look", unread: str) -> str:
    data = stage.config.data
    if unread:
        return (
            f"lengths: every row of {data.max_length} tokens, as data.max_length allows; the data "
            f"was not read ({unread})"
        )
    steps = min(look.setup.length, MOST_STEPS)
    return f"lengths: those of {data.path}, of the first {steps} steps"


def _time(stage: "ParsedStage", look: "Look") -> Iterator[str]:
    """Where the device is this machine's."""
    from rlhf_forge.planning.speed import measured_speed

    if look.setup.cuda and not torch.cuda.is_available():
        yield "time: not known: there is no GPU here to time"
        return
    try:
        config = stage.module().backbone_config
        speed = measured_speed(config, look.folder, look.setup, look.demand)
    except (UserError, OSError, SafetensorError, RuntimeError, ValueError) as error:
        yield f"time: not known: no layer could be timed ({str(error).splitlines()[0]})"
        return
    found = duration_of(look.setup, look.demand, speed)
    unit = "iterations" if look.setup.stage == "ppo" else "steps"
    yield (
        f"time: about {_hours(found.hours)} for {look.setup.length} {unit}, "
        f"{found.tokens_per_second:,.0f} tokens/s (a few layers timed on this machine)"
    )


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
