"""On the page: a reward model's report card."""

from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from rlhf_forge.pages.charts import Bar, Bin, Series, bar_chart, line_chart, reliability_plot
from rlhf_forge.pages.escaping import number
from rlhf_forge.pages.page import beside, facts, finding, prose, quoted, table, unfolding
from rlhf_forge.reporting.report import Report

CHANCE = 0.5


def card(report: Report) -> Iterator[Markup]:
    """The card of each reward stage; else what the evaluation knows of the reward model."""
    cards = {stage.name: stage.card for stage in report.stages if stage.card is not None}
    for name, one in cards.items():
        yield from _card(name, one)
    if not cards:
        yield prose("No report card is there: reward training writes artefact/card.json.")
    rows = (report.summary or {}).get("reward", {})
    if rows:
        yield _accuracy(rows)


def _card(name: str, card: dict[str, Any]) -> Iterator[Markup]:
    yield finding(
        card["verdict"],
        f"report card of {name}",
        f"on {card['n']:,} held-out pairs; the longer answer is the preferred one in "
        f"{card['longer_wins']:.1%}",
    )
    columns = ["check", "verdict", "value", "low", "high", "cases", "why", "rule"]
    keys = ["name", "verdict", "value", "low", "high", "n", "reason", "threshold"]
    rows = [[_short(check[key]) for key in keys] for check in card["checks"]]
    yield table(columns, rows, caption="with 95 % intervals")
    yield from _shares("Accuracy by source", card["sources"])
    yield from _shares("Accuracy by how much longer chosen is", card["length_gaps"])
    bins = card["reliability"]["bins"]
    yield reliability_plot(
        "Calibration: how often right, by how sure",
        [Bin(part["confidence"], part["accuracy"], part["n"]) for part in bins],
    )
    yield _histogram(card["histogram"])
    below = {probe: one["below"] for probe, one in card["probes"].items()}
    yield from _shares("Demonstrations that beat each probe", below)
    yield facts(_numbers(card))
    mistakes = [part for mistake in card["mistakes"] for part in _mistake(mistake)]
    if mistakes:
        yield unfolding(f"{len(card['mistakes'])} most confident mistakes", mistakes)


def _numbers(card: dict[str, Any]) -> dict[str, Any]:
    fit, margin = card["reliability"], card["margin"]
    told = {
        "label ceiling": card["ceiling"],
        "majority baseline": card["majority"],
        "mean margin": f"{number(margin['value'])} (standard error {number(margin['se'])})",
        "median margin": card["margin_median"],
        "calibration error": fit["error"],
        "nats per pair": fit["nll"],
        "nats per pair, fitted": fit["nll_fitted"],
        "fitted temperature": fit["temperature"],
    }
    gains = {f"{name} adds": one["gain"]["value"] for name, one in card["probes"].items()}
    parted = card["disagreement"]
    if parted is not None:
        told |= {
            "members' accuracies": ", ".join(map(number, parted["accuracies"])),
            "spread of their scores": parted["spread"],
            "pairs they order differently": parted["split"]["value"],
            "accuracy where they agree": parted["accuracy_agreed"]["value"],
            "accuracy where they do not": parted["accuracy_split"]["value"],
        }
    return told | gains


def _short(value: Any) -> Any:
    """Without the digits that rounding errors have."""
    return round(value, 4) if isinstance(value, float) else value


def _shares(title: str, shares: Mapping[str, dict[str, Any]]) -> Iterator[Markup]:
    """Those of which there are any cases."""
    bars = [Bar(name, s["value"], s["low"], s["high"]) for name, s in shares.items() if s["n"]]
    if bars:
        yield bar_chart(title, bars, x_label="share, with its 95 % interval", reference=CHANCE)


def _histogram(counts: dict[str, list[float]]) -> Markup:
    """Outlines over the bins that the card has."""
    edges = counts["edges"]
    corners = [edge for edge in edges for _ in range(2)][1:-1]
    outlines = [
        Series(
            name, corners, [n / max(sum(counts[name]), 1) for n in counts[name] for _ in range(2)]
        )
        for name in ("chosen", "rejected")
    ]
    return line_chart("Scores of answers", outlines, x_label="normalised score", y_label="share")


def _mistake(mistake: dict[str, Any]) -> Iterator[Markup]:
    label = f"{mistake['origin']}, margin {number(mistake['margin'])}"
    yield quoted(mistake["prompt"], label=label)
    yield beside({"chosen": mistake["chosen"], "rejected": mistake["rejected"]})


def _accuracy(rows: dict[str, Any]) -> Markup:
    keys = ["accuracy", "low", "high", "ceiling", "n"]
    return table(
        ["pairs", "accuracy", "low", "high", "ceiling", "n"],
        [[name, *(row[key] for key in keys)] for name, row in rows.items()],
        caption="the reward model on held-out pairs, and on pairs of the policy's start, as the "
        "pipeline measured it",
    )
