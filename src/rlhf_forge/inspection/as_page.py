"""An inspection as one HTML page."""

from collections.abc import Iterator

from markupsafe import Markup

from rlhf_forge.inspection.findings import Example, Finding, Inspection
from rlhf_forge.inspection.telling import told_of_labels
from rlhf_forge.pages.charts import Bar, bar_chart, histogram
from rlhf_forge.pages.page import (
    Section,
    beside,
    facts,
    finding,
    page,
    prose,
    quoted,
    table,
    unfolding,
)

EXAMPLES, CHARACTERS = 3, 1000
"""Of each rule, and of each text: 27 rules of them stay below the page's limit."""
LONGEST = 99.0
"""Percentile at which the histogram of lengths ends."""


def as_page(found: Inspection) -> str:
    """The page."""
    paths = ", ".join(source.path for source in found.sources)
    counts = ", ".join(f"{found.count(s):,} {s}" for s in ("error", "warning", "info"))
    return page(
        "Preference data, inspected",
        f"{paths}: {found.pairs:,} pairs; {counts}",
        [
            Section("Findings", list(_findings(found))),
            Section("What predicts the labels", list(_tendencies(found))),
            Section("Labels", list(_labels(found))),
            Section("Sources", [_sources(found)]),
            Section("What was read", list(_read(found))),
        ],
    )


def _findings(found: Inspection) -> Iterator[Markup]:
    if not found.findings:
        yield prose("No rule was broken.")
    for one in found.findings:
        rule = one.rule
        shown = found.examples.get(one.code, [])[:EXAMPLES]
        unfolded = [Markup().join(_example(example)) for example in shown]
        details = [prose(rule.why)]
        if one.details:
            top = sorted(one.details.items(), key=lambda item: -item[1])[:10]
            details.append(prose("; ".join(f"{number:,} {detail}" for detail, number in top)))
        if unfolded:
            details.append(unfolding(_title(one, len(shown)), unfolded))
        yield finding(rule.severity, f"{one.code} {rule.name}", one.message, details=details)


def _title(one: Finding, shown: int) -> str:
    return f"{shown} of {len(one.rows):,} records"


def _example(example: Example) -> Iterator[Markup]:
    score = "" if example.score is None else f", probability of the label {example.score:.3f}"
    twin = f", as {example.twin}" if example.twin else ""
    yield prose(f"{example.origin}{twin}{score}")
    texts = dict(example.texts)
    first = "row" if "row" in texts else "prompt"
    yield quoted(texts.pop(first), label=first, most=CHARACTERS)
    if texts:
        yield beside(texts, most=CHARACTERS)


def _tendencies(found: Inspection) -> Iterator[Markup]:
    yield prose(
        "How often the chosen answer is the longer one, or the one that refuses and so on, among "
        "pairs that differ in it. Near one half it says nothing about the label."
    )
    told = [t for t in found.tendencies if t.share.n]
    bars = [Bar(t.name, t.share.value, t.share.low, t.share.high) for t in told]
    yield bar_chart("What the chosen answer is", bars, x_label="share of pairs", reference=0.5)
    yield histogram("Length of the answers", _without_tail(found), x_label="characters")
    columns = ["", "share", "low", "high", "pairs"]
    rows = [[t.name, t.share.value, t.share.low, t.share.high, t.share.n] for t in told]
    yield table(columns, rows, caption="with 95 % intervals")


def _labels(found: Inspection) -> Iterator[Markup]:
    if found.labels is None:
        yield prose(
            "No model looked at the labels: it was not asked for, or there are too few pairs."
        )
        return
    yield prose(told_of_labels(found.labels))
    chances = {"labels": found.labels.probabilities.tolist()}
    yield histogram("Probability of each label", chances, x_label="by a model that did not see it")


def _sources(found: Inspection) -> Markup:
    columns = ["source", "pairs", "held out", "longer wins", "low", "high"]
    columns += ["characters chosen", "rejected", "refusals", "whole sentences"]
    rows = [
        [
            (row.name or "(none)")[:80],
            row.pairs,
            row.held_out,
            *(row.longer_wins.value, row.longer_wins.low, row.longer_wins.high),
            *(row.chosen_length, row.rejected_length, row.refusals, row.whole_sentences),
        ]
        for row in found.by_source
    ]
    return table(columns, rows)


def _read(found: Inspection) -> Iterator[Markup]:
    rows = [[s.path, s.form, s.records, s.held_out] for s in found.sources]
    yield table(["path", "format", "records", "held out"], rows)
    read = {"records": found.records, "pairs": found.pairs} | dict(found.others)
    if found.unsure:
        read["not compared with all candidates for near duplicates"] = found.unsure
    yield facts(read)


def _without_tail(found: Inspection) -> dict[str, list[float]]:
    """Lengths without the longest hundredth, which would leave the others one bin."""
    every = sorted(value for values in found.lengths.values() for value in values)
    end = every[int(len(every) * LONGEST / 100)] if every else 0.0
    return {name: [v for v in values if v <= end] for name, values in found.lengths.items()}
