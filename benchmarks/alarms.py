"""What each alarm would have said in a run of overoptimisation.py, and which state it keeps."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from panel import EVERY

from rlhf_forge.callbacks.watch import news_of
from rlhf_forge.evaluation.findings import OVER_OPTIMISED, findings_in
from rlhf_forge.evaluation.readings import Reading, kept_by_judge

# Evaluations behind gold's peak within which an alarm is in time, and gold that may be lost.
IN_TIME, LOST = 2, 0.1
# The plain alarm: nats of KL beyond which it speaks.
MOST_KL = 2.5
# The spread of two members of an ensemble has grown to this many times that of the start.
MORE_SPREAD = 1.5
ALARMS = {
    "same": "judge of the same kind",
    "other": "judge of the other kind",
    "spread_same": f"spread of an ensemble of one kind, {MORE_SPREAD:g}x",
    "spread_other": f"spread of an ensemble of two kinds, {MORE_SPREAD:g}x",
    "kl": f"KL above {MOST_KL:g} nats",
    "gold": "gold (no alarm knows it)",
}


@dataclass(frozen=True)
class Run:
    """The panel's readings of one run.

    Attributes:
        readings: Without a judge's scores.
        judges: Of each judge the scores of every reading.
    """

    readings: list[Reading]
    judges: dict[str, list[list[float]]]

    @classmethod
    def of(cls, path: Path) -> "Run":
        """What a panel wrote: every `EVERY` iterations and the last, though it read more often."""
        written = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row for row in written if row["iteration"] % EVERY == 0 or row is written[-1]]
        known = {field.name for field in fields(Reading)}
        readings = [Reading(**{k: v for k, v in row.items() if k in known}) for row in rows]
        return cls(
            readings, {name: [row["judges"][name] for row in rows] for name in rows[0]["judges"]}
        )

    def as_judged(self, name: str) -> list[Reading]:
        """The readings as a watch with this judge takes them."""
        pairs = zip(self.readings, self.judges[name], strict=True)
        return [replace(reading, judged=scores) for reading, scores in pairs]

    def means(self, name: str) -> list[float]:
        """A judge's mean score of every reading."""
        return [fmean(scores) for scores in self.judges[name]]

    def spreads(self, name: str) -> list[float]:
        """Mean distance of the reward's score from a judge's, of every reading."""
        pairs = zip(self.readings, self.judges[name], strict=True)
        return [
            fmean(abs(a - b) for a, b in zip(reading.scores, scores, strict=True))
            for reading, scores in pairs
        ]


def said_at(run: Run, alarm: str) -> list[int]:
    """The readings at which an alarm speaks in a run that goes on: it has something new to tell."""
    if alarm in run.judges:
        return list(_said_by_judge(run.as_judged(alarm)))
    if alarm == "kl":
        loud = [reading.kl > MOST_KL for reading in run.readings]
    else:
        spreads = run.spreads(alarm.removeprefix("spread_"))
        loud = [spread > MORE_SPREAD * spreads[0] for spread in spreads]
    return [at for at, now in enumerate(loud) if now and not (at and loud[at - 1])]


def _said_by_judge(readings: Sequence[Reading]) -> Iterator[int]:
    spoken: dict[str, int] = {}
    for at in range(len(readings)):
        news, spoken = news_of(findings_in(readings[: at + 1]), spoken)
        if any(found.kind in OVER_OPTIMISED for found in news):
            yield at


def kept_at(run: Run, alarm: str, spoke: int | None) -> int:
    """The reading whose state would be the artefact of a run that stops when the alarm speaks."""
    seen = slice(None if spoke is None else spoke + 1)
    if alarm in run.judges:
        readings = run.as_judged(alarm)[seen]
        return readings.index(kept_by_judge(readings))
    # One that has no score of its own: the best by the reward before it speaks.
    before = range(len(run.readings))[:spoke]
    return max(before, key=lambda at: run.readings[at].score, default=0)


def verdict(run: Run, alarm: str) -> dict[str, Any]:
    """How an alarm did in one run: numbers of readings, and the gold that its choice costs.

    Returns:
        ``peak`` of gold; where the alarm ``spoke`` first, whether that was ``in_time``, which
        reading is ``kept`` and how much gold that has ``lost``, of a run that stops there; and of
        one that goes on all that was ``said``, and the same with ``_on``.
    """
    gold = run.means("gold")
    peak = max(range(len(gold)), key=lambda at: gold[at])
    said = said_at(run, alarm)
    spoke = said[0] if said else None
    kept, kept_on = kept_at(run, alarm, spoke), kept_at(run, alarm, None)
    in_time = [at for at in said if peak < at <= peak + IN_TIME]
    return {
        "peak": peak,
        "spoke": spoke,
        "in_time": spoke in in_time,
        "kept": kept,
        "lost": gold[peak] - gold[kept],
        "said": said,
        "in_time_on": bool(in_time),
        "kept_on": kept_on,
        "lost_on": gold[peak] - gold[kept_on],
    }
