"""On the page: policies before and after, their way through KL, and what they answer."""

import math
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from rlhf_forge.pages.charts import Bar, Series, bar_chart, histogram, scatter_chart
from rlhf_forge.pages.escaping import number
from rlhf_forge.pages.page import beside, prose, quoted, table
from rlhf_forge.reporting.frontier import Frontier
from rlhf_forge.reporting.policy_rules import Z95
from rlhf_forge.reporting.report import Report
from rlhf_forge.reporting.run import duel_of
from rlhf_forge.reporting.samples import Sample

BINS = 24
"""At most; no more than there are different values."""


def evaluation(report: Report) -> Iterator[Markup]:
    """All models on the same held-out prompts."""
    summary = report.summary
    if summary is None:
        yield prose("No evaluation is there: the pipeline makes one and writes summary.json.")
        return
    first, start = duel_of(summary)
    yield prose(_judge(summary))
    bars = [
        Bar(
            name,
            row["gold"],
            row["gold"] - Z95 * row["gold_se"],
            row["gold"] + Z95 * row["gold_se"],
        )
        for name, row in summary["models"].items()
    ]
    yield bar_chart("Mean score, with 95 % intervals", bars, x_label="score")
    columns = ["model", "score", "se", "accuracy", "greedy", "KL", "tokens", "ended", "prompts"]
    keys = ["gold", "gold_se", "accuracy", "accuracy_greedy", "kl", "length", "eos", "n"]
    rows = [[name, *(row[key] for key in keys)] for name, row in summary["models"].items()]
    yield table(columns, rows, caption=f"KL in nats a response, from {start}")
    gains = [
        [
            name,
            row["gain"]["gold"],
            row["gain"]["se"],
            *_wins(row["win_rate"], f"{name}_vs_{start}"),
        ]
        for name, row in {first: summary, **summary["policies"]}.items()
    ]
    columns = ["policy", "gain", "se", "wins", "low", "high"]
    yield table(
        columns, gains, caption=f"over {start}, paired by prompt; 95 % interval of the wins"
    )


def frontiers(report: Report) -> Iterator[Markup]:
    """Score against KL, with the curve that the watch fitted and the policy that was kept."""
    if not report.frontiers:
        yield prose("No stage logged a score and KL along its way.")
    for frontier in report.frontiers:
        yield _frontier(frontier)
    for frontier in report.frontiers:
        yield prose(_told(frontier))


def spreads(report: Report) -> Iterator[Markup]:
    """How tokens and scores of single responses are spread, before and after."""
    if not report.spreads:
        yield prose(
            "Single responses are not there: the pipeline writes them into responses.jsonl. Means "
            "are under Before and after."
        )
        return
    for key, samples in report.spreads.items():
        title = {"tokens": "Length of the responses", "score": "Score of the responses"}[key]
        bins = min(BINS, len({value for values in samples.values() for value in values}))
        yield histogram(title, samples, x_label=key, bins=max(bins, 1))


def samples(report: Report) -> Iterator[Markup]:
    """Responses beside each other."""
    if not report.samples:
        yield prose("No samples are there.")
        return
    if not report.spreads:
        yield prose("Sampled in training, and not scored.")
    for sample in report.samples:
        yield quoted(sample.prompt, label=f"prompt ({sample.why})")
        yield beside(_answers(sample))


def _wins(rate: dict[str, float], key: str) -> list[float]:
    return [rate[key], rate["low"], rate["high"]]


def _judge(summary: dict[str, Any]) -> str:
    judge = summary.get("judge")
    if "judge" not in summary:
        return "Who judged is not in summary.json: a judge function, or the reward itself."
    if judge is None:
        return "The score is the reward that the policy was trained on: nobody else judged."
    return f"The score is what {judge} makes of the responses."


def _frontier(frontier: Frontier) -> Markup:
    curve = frontier.fitted()
    place = frontier.chosen
    return scatter_chart(
        f"{frontier.stage}: {frontier.score} against KL ({frontier.source})",
        [Series(frontier.score, frontier.kl, frontier.values)],
        curves=[Series("fitted: d (α − β log d)", *curve)] if frontier.fit else [],
        chosen=None if place is None else (frontier.kl[place], frontier.values[place]),
        x_label="KL, nats a response",
        y_label="score",
    )


def _told(frontier: Frontier) -> str:
    """Ring and curve in words."""
    name = f"{frontier.stage}, {frontier.score}"
    told = f"{name}: {len(frontier.kl)} points from {frontier.source}"
    if frontier.chosen is not None:
        at = frontier.iterations[frontier.chosen]
        score = number(frontier.values[frontier.chosen])
        what = "was kept" if frontier.source == "the watch" else "was sampled last before the kept"
        told += f"; ringed is the one that {what}, iteration {at}: score {score}"
        told += f" at {number(frontier.kl[frontier.chosen])} nats"
    if frontier.fit is None:
        return f"{told}; no curve was fitted."
    peak = frontier.fit["peak"]
    if peak is None:
        return f"{told}; the fitted curve has no peak."
    high = peak["high"]  # none, or infinite: the points do not tell that there is a peak at all
    end = f"to {number(high)}" if high is not None and math.isfinite(high) else "or more"
    where = f"{number(peak['kl'])} nats (95 %: {number(peak['low'])} {end})"
    return f"{told}; the fitted curve has its peak at {where}."


def _answers(sample: Sample) -> dict[str, str]:
    return {_label(name, answer): answer["text"] for name, answer in sample.answers.items()}


def _label(name: str, answer: dict[str, Any]) -> str:
    if "score" not in answer:
        return name
    cut = "" if answer["finished"] else ", cut"
    return f"{name}: score {number(answer['score'])}, {answer['tokens']} tokens{cut}"
