"""The report card that scored pairs and probes make."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, median, stdev

from rlhf_forge.data.records import Conversation
from rlhf_forge.evaluation.card_evidence import Evidence
from rlhf_forge.evaluation.card_rules import (
    Check,
    accuracy_check,
    calibration_check,
    correlation_check,
    excess_check,
    padded_check,
    side_check,
    sources_check,
    spoilt_check,
    worst,
)
from rlhf_forge.evaluation.probes import SPOILT
from rlhf_forge.evaluation.reliability import reliability_of
from rlhf_forge.evaluation.report_card import Disagreement, Histogram, Mistake, Probe, ReportCard
from rlhf_forge.evaluation.statistics import (
    Share,
    difference_of,
    mean_of,
    rank_correlation,
    share_of,
    wins_of,
)

HISTOGRAM_BINS = 12
MISTAKES = 5
SHOWN_CHARACTERS = 300
# Length of the chosen answer less that of the other, as a share of the longer one.
GAP_EDGES = (-0.5, -0.1, 0.1, 0.5)
GAPS = (
    "chosen under half as long",
    "chosen shorter",
    "about as long",
    "chosen longer",
    "chosen over twice as long",
)


def report_card(evidence: Evidence) -> ReportCard:
    """The card that the evidence makes; the order of its pairs changes nothing."""
    wins, margins = evidence.wins, evidence.margins
    longer = evidence.longer_wins
    longer_wins = fmean(longer) if longer else 0.5
    majority = max(longer_wins, 1 - longer_wins)
    sources = {
        name: share_of([wins[row] for row in rows])
        for name, rows in sorted(evidence.by_source().items())
    }
    reliability = reliability_of([m * evidence.unit for m in margins], evidence.scores.preferred)
    probes = {name: _probe(gains) for name, gains in evidence.gains.items()}
    checks = [
        accuracy_check(share_of(wins), majority),
        side_check("shorter_chosen", share_of(evidence.wins_where(-1))),
        side_check("longer_chosen", share_of(evidence.wins_where(1))),
        _excess_check(evidence),
        _correlation_check(evidence),
        *([sources_check(sources)] if len(sources) > 1 else []),
        calibration_check(reliability, len(wins)),
        *(_probe_check(name, probe) for name, probe in probes.items()),
    ]
    return ReportCard(
        verdict=worst(checks),
        checks=checks,
        n=len(wins),
        ceiling=evidence.scores.accuracy()["ceiling"],
        longer_wins=longer_wins,
        majority=majority,
        sources=sources,
        length_gaps=_by_gap(evidence),
        reliability=reliability,
        histogram=_histogram(evidence.scores.first, evidence.scores.second),
        margin=mean_of(margins),
        margin_median=median(margins) if margins else 0.0,
        probes=probes,
        mistakes=_mistakes(evidence),
        disagreement=_disagreement(evidence) if evidence.members else None,
    )


def _excess_check(evidence: Evidence) -> Check:
    """Over the pairs of unlike lengths alone: of the others neither answer is the longer."""
    rows = evidence.unlike
    labels = [evidence.longer_wins[row] for row in rows]
    scores = [evidence.longer_scores_higher[row] for row in rows]
    excess = [score - label for score, label in zip(scores, labels, strict=True)]
    return excess_check(difference_of(excess), mean_of(labels).value)


def _correlation_check(evidence: Evidence) -> Check:
    scores = [*evidence.scores.first, *evidence.scores.second]
    lengths = [float(side[n]) for n in (0, 1) for side in evidence.lengths]
    return correlation_check(rank_correlation(scores, lengths))


def _probe_check(name: str, probe: Probe) -> Check:
    check = spoilt_check if name in SPOILT else padded_check
    return check(name, probe.below, probe.gain.value)


def _probe(gains: Sequence[float]) -> Probe:
    below = [1.0 if gain < 0 else 0.5 if gain == 0 else 0.0 for gain in gains]
    return Probe(share_of(below), mean_of(gains))


def _by_gap(evidence: Evidence) -> dict[str, Share]:
    held: list[list[float]] = [[] for _ in GAPS]
    for win, (chosen, rejected) in zip(evidence.wins, evidence.lengths, strict=True):
        gap = (chosen - rejected) / max(chosen, rejected, 1)
        held[bisect_right(GAP_EDGES, gap)].append(win)
    return {name: share_of(part) for name, part in zip(GAPS, held, strict=True)}


def _histogram(chosen: Sequence[float], rejected: Sequence[float]) -> Histogram:
    """Equal bins from the lowest score to the highest."""
    low, high = min((*chosen, *rejected), default=0.0), max((*chosen, *rejected), default=0.0)
    width = (high - low) / HISTOGRAM_BINS or 1.0

    def counts(scores: Sequence[float]) -> list[int]:
        found = [0] * HISTOGRAM_BINS
        for score in scores:
            found[min(math.floor((score - low) / width), HISTOGRAM_BINS - 1)] += 1
        return found

    edges = [low + width * place for place in range(HISTOGRAM_BINS + 1)]
    return Histogram(edges, counts(chosen), counts(rejected))


def _disagreement(evidence: Evidence) -> Disagreement:
    orders = [wins_of(member.first, member.second) for member in evidence.members]
    split = [float(len(set(order)) > 1) for order in zip(*orders, strict=True)]
    answers = zip(*([*member.first, *member.second] for member in evidence.members), strict=True)
    apart: dict[float, list[float]] = {0.0: [], 1.0: []}
    for win, parted in zip(evidence.wins, split, strict=True):
        apart[parted].append(win)
    return Disagreement(
        accuracies=[mean_of(replace(evidence, scores=m).wins).value for m in evidence.members],
        spread=mean_of([stdev(scores) for scores in answers]).value,
        split=share_of(split),
        accuracy_agreed=share_of(apart[0.0]),
        accuracy_split=share_of(apart[1.0]),
    )


def _mistakes(evidence: Evidence) -> list[Mistake]:
    """The pairs that the model is most sure of and wrong about."""
    wrong = [
        Mistake(
            margin,
            record.origin,
            _shown(record.prompt),
            _shown(record.chosen),
            _shown(record.rejected),
        )
        for margin, record in zip(evidence.margins, evidence.records, strict=True)
        if margin < 0
    ]
    return sorted(wrong, key=lambda found: (found.margin, found.origin))[:MISTAKES]


def _shown(turns: Conversation) -> str:
    text = turns[-1]["content"] if turns else ""
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."
