"""A few responses before and after, to read beside the numbers."""

from dataclasses import dataclass
from typing import Any

from rlhf_forge.reporting.run import Run, duel_of

IN_ORDER, GAINS, LOSSES = 4, 2, 2


@dataclass(frozen=True)
class Sample:
    """What models answered to one prompt.

    Attributes:
        why: Why it is shown.
        prompt: What was asked last.
        answers: By model: text, and where they are known score, tokens and whether it finished.
    """

    why: str
    prompt: str
    answers: dict[str, dict[str, Any]]


def samples_of(run: Run) -> list[Sample]:
    """The first prompts, then those where the first policy gained and lost most by score.

    A run without evaluated responses gives the prompts that were sampled in training, unscored.
    """
    if run.summary is None or not run.responses:
        return _of_training(run)
    first, start = duel_of(run.summary)

    def gain(row: dict[str, Any]) -> float:
        models = row["models"]
        return float(models[first]["score"] - models[start]["score"])

    head, rest = run.responses[:IN_ORDER], run.responses[IN_ORDER:]
    ranked = sorted(rest, key=gain)
    lost = [row for row in ranked[:LOSSES] if gain(row) < 0]
    won = [row for row in ranked[: -GAINS - 1 : -1] if gain(row) > 0]
    groups = {"from the beginning": head, "gained most": won, "lost most": lost}
    shown = [start, first, *run.summary["policies"]]
    return [
        Sample(why, row["prompt"], {name: row["models"][name] for name in shown})
        for why, rows in groups.items()
        for row in rows
    ]


def _of_training(run: Run) -> list[Sample]:
    rows = [] if run.policy is None else run.policy.samples
    last = rows[-1]["iteration"] if rows else 0
    return [
        Sample(
            f"sampled behind iteration {last}",
            row["prompt"],
            {k: {"text": text} for k, text in row.items() if k not in {"iteration", "prompt"}},
        )
        for row in rows
        if row["iteration"] == last
    ]


def spreads_of(run: Run) -> dict[str, dict[str, list[float]]]:
    """Tokens and score of every evaluated response, of the start and of each policy."""
    if run.summary is None or not run.responses:
        return {}
    first, start = duel_of(run.summary)
    shown = [start, first, *run.summary["policies"]]
    return {
        key: {name: [row["models"][name][key] for row in run.responses] for name in shown}
        for key in ("tokens", "score")
    }
