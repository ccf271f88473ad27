"""The numbers that a stage logged, from its TensorBoard events."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rlhf_forge.pages.charts import Series

MOST_POINTS = 200
"""Of one curve; a chart shows no more."""
NOT_OURS = {"epoch"}
"""Lightning's, and always 0: a run is one pass over an endless stream."""


@dataclass(frozen=True)
class Curve:
    """One number along a stage.

    Attributes:
        steps: Optimiser steps; in PPO iterations.
        values: None where the number was not finite.
        total: Over all steps, also those that a long curve is shown without; of the finite ones.
    """

    steps: list[int]
    values: list[float | None]
    total: float

    @property
    def finite(self) -> list[float]:
        """The values that are numbers."""
        return [value for value in self.values if value is not None]

    def by_step(self) -> dict[int, float]:
        """The values that are numbers, by their step."""
        pairs = zip(self.steps, self.values, strict=True)
        return {step: value for step, value in pairs if value is not None}

    def series(self, name: str) -> Series:
        """For a chart."""
        values = [math.nan if value is None else value for value in self.values]
        return Series(name, list(map(float, self.steps)), values)


@dataclass(frozen=True)
class Logged:
    """All that a stage logged.

    Attributes:
        curves: By tag, in the alphabet's order.
        seconds: From the first event to the last.
    """

    curves: dict[str, Curve]
    seconds: float


def read_curves(folder: Path) -> Logged | None:
    """What the event files in ``folder`` hold; None if there is none.

    A run that was stopped and went on wrote several files, and some steps twice: the later one is
    the run's.
    """
    files = sorted(folder.glob("events.out.tfevents.*"))
    if not files:
        return None
    found: dict[str, dict[int, float]] = {}
    times = []
    for path in files:
        for time, step, tag, value in _scalars(path):
            times.append(time)
            found.setdefault(tag, {})[step] = value
    curves = {tag: _curve(found[tag]) for tag in sorted(found)}
    return Logged(curves, max(times, default=0.0) - min(times, default=0.0))


def _scalars(path: Path) -> Iterator[tuple[float, int, str, float]]:
    loader = import_module("tensorboard.backend.event_processing.event_file_loader")
    event_of = import_module("tensorboard.compat.proto.event_pb2").Event.FromString
    for record in loader.RawEventFileLoader(str(path)).Load():
        event = event_of(record)
        for value in event.summary.value:
            if value.HasField("simple_value") and value.tag not in NOT_OURS:
                yield event.wall_time, event.step, value.tag, value.simple_value


def _curve(points: dict[int, float]) -> Curve:
    steps = sorted(points)
    every = -(-len(steps) // MOST_POINTS)
    kept = sorted({*steps[::every], steps[-1]})
    finite = [value for value in points.values() if math.isfinite(value)]
    values = [points[step] if math.isfinite(points[step]) else None for step in kept]
    return Curve(kept, values, math.fsum(finite))
