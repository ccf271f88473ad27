"""An inspection as text to read and as JSON."""

from collections.abc import Iterator
from typing import Any

from rlhf_forge.evaluation.statistics import Share
from rlhf_forge.inspection.findings import Finding, Inspection, Labels
from rlhf_forge.inspection.tendencies import Tendency

MOST_LINES = 1000
"""Records of one finding that JSON lists; its count is of all."""
SHOWN = 5
DETAILS_SHOWN = 8
SHOWN_SOURCES = 20


def lines_of(found: Inspection) -> Iterator[str]:
    """All of it in lines; what is in the data may hold any character."""
    for source in found.sources:
        kept = ", held out" if source.held_out else ""
        yield f"{source.path}: {source.records:,} records, format {source.form!r}{kept}"
    others = "".join(f"; {number:,}: {reason}" for reason, number in found.others.items())
    yield f"{found.records:,} records read, {found.pairs:,} are pairs{others}"
    yield ""
    for finding in found.findings:
        yield f"{finding.code} {finding.rule.severity}: {finding.rule.name}: {finding.message}"
        yield from (f"    {line}" for line in _places(found, finding))
    if found.findings:
        yield ""
    yield from ("what predicts the labels:", *(f"  {told_of(t)}" for t in found.tendencies))
    if found.labels is not None:
        yield told_of_labels(found.labels)
    if len(found.by_source) > 1:
        yield from ("", *_source_lines(found))
    if found.unsure:
        yield f"{found.unsure:,} records have more candidates for near duplicates than are compared"
    yield ""
    counts = ", ".join(f"{found.count(s):,} {s}" for s in ("error", "warning", "info"))
    yield f"found: {counts}"


def told_of(tendency: Tendency) -> str:
    """A tendency in words."""
    share = tendency.share
    if not share.n:
        return f"{tendency.name}: no pair differs in it"
    return (
        f"{tendency.name}: the chosen answer in {share.value:.1%} of the {share.n:,} pairs that "
        f"differ in it (95 %: {share.low:.1%} to {share.high:.1%})"
    )


def told_of_labels(labels: Labels) -> str:
    """What a model that did not see the pairs makes of the labels, in words."""
    right = labels.accuracy
    told = (
        f"labels: {labels.judge}: sides with {right.value:.1%} of {right.n:,} "
        f"(95 %: {right.low:.1%} to {right.high:.1%}); "
    )
    if labels.noise is None:
        return told + "too weak to say how many are the wrong way round"
    return told + f"by it about {labels.noise:.0%} are the wrong way round, which is rough"


def as_json(found: Inspection) -> dict[str, Any]:
    """All of it as plain values."""
    return {
        "sources": [
            {"path": s.path, "format": s.form, "records": s.records, "held_out": s.held_out}
            for s in found.sources
        ],
        "records": found.records,
        "pairs": found.pairs,
        "not_pairs": dict(found.others),
        "findings": [_finding_json(found, finding) for finding in found.findings],
        "tendencies": [
            {"name": t.name, "decides": t.decides, **_share(t.share)} for t in found.tendencies
        ],
        "by_source": [
            {
                "source": row.name,
                "pairs": row.pairs,
                "held_out": row.held_out,
                "longer_wins": _share(row.longer_wins),
                "chosen_length": row.chosen_length,
                "rejected_length": row.rejected_length,
                "refusals": row.refusals,
                "whole_sentences": row.whole_sentences,
            }
            for row in found.by_source
        ],
        "labels": None
        if found.labels is None
        else {
            "judge": found.labels.judge,
            "noise": found.labels.noise,
            **_share(found.labels.accuracy),
        },
        "unsure_of_near_duplicates": found.unsure,
    }


def _finding_json(found: Inspection, finding: Finding) -> dict[str, Any]:
    rows = finding.rows[:MOST_LINES].tolist()
    told: dict[str, Any] = {
        "code": finding.code,
        "name": finding.rule.name,
        "severity": finding.rule.severity,
        "message": finding.message,
        "count": len(finding.rows),
        "details": dict(finding.details),
        "records": [found.ledger.origin(row) for row in rows],
    }
    if finding.twins is not None:
        told["twins"] = [found.ledger.origin(t) for t in finding.twins[:MOST_LINES].tolist()]
    if finding.scores is not None:
        told["label_probability"] = finding.scores[:MOST_LINES].tolist()
    return told


def _places(found: Inspection, finding: Finding) -> Iterator[str]:
    details = sorted(finding.details.items(), key=lambda item: -item[1])
    if details:
        more = f" and {len(details) - DETAILS_SHOWN} more" * (len(details) > DETAILS_SHOWN)
        yield ", ".join(f"{n:,} {d}" for d, n in details[:DETAILS_SHOWN]) + more
    told, before = [], ""
    for at, row in enumerate(finding.rows[:SHOWN].tolist()):
        origin = found.ledger.origin(row)
        twin = "" if finding.twins is None else found.ledger.origin(int(finding.twins[at]))
        score = "" if finding.scores is None else f" ({finding.scores[at]:.3f})"
        as_twin = f" (as {_short(twin, origin)})" if twin else ""
        told.append(f"{_short(origin, before)}{as_twin}{score}")
        before = origin
    if told:
        more = f" and {len(finding.rows) - SHOWN:,} more" * (len(finding.rows) > SHOWN)
        yield ", ".join(told) + more


def _short(origin: str, before: str) -> str:
    """Only the line, where the file is the one named before."""
    place = origin.rstrip("0123456789")
    return origin.removeprefix(place) if place == before.rstrip("0123456789") else origin


def _source_lines(found: Inspection) -> Iterator[str]:
    yield "by source: pairs, longer wins (95 %), characters chosen and rejected, whole sentences"
    for row in found.by_source[:SHOWN_SOURCES]:
        share = row.longer_wins
        yield (
            f"  {row.name or '(none)'}: {row.pairs:,}, {share.value:.1%} "
            f"({share.low:.1%} to {share.high:.1%}), {row.chosen_length:.0f} and "
            f"{row.rejected_length:.0f}, {row.whole_sentences:.1%}"
        )
    if len(found.by_source) > SHOWN_SOURCES:
        yield f"  and {len(found.by_source) - SHOWN_SOURCES} more"


def _share(share: Share) -> dict[str, float | int]:
    return {"value": share.value, "low": share.low, "high": share.high, "n": share.n}
