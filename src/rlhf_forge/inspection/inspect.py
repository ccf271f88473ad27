"""From paths to findings."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from rlhf_forge.data.records import Conversation, Pair
from rlhf_forge.evaluation.statistics import share_of
from rlhf_forge.inspection import flips
from rlhf_forge.inspection.as_trained import AsTrained
from rlhf_forge.inspection.excerpts import examples_of
from rlhf_forge.inspection.findings import (
    Finding,
    Inspection,
    Labels,
    SourceFacts,
)
from rlhf_forge.inspection.ledger import Columns
from rlhf_forge.inspection.near import Near
from rlhf_forge.inspection.reading import Source, Wording, format_of, read_pairs
from rlhf_forge.inspection.rules import BY_CODE
from rlhf_forge.inspection.selection import worst
from rlhf_forge.inspection.sets import (
    Matches,
    contradictions,
    duplicates,
    leaked_prompts,
    repeated_prompts,
)
from rlhf_forge.inspection.survey import Survey
from rlhf_forge.inspection.telling import told_of
from rlhf_forge.inspection.tendencies import Tendency, source_rows, tendencies, without_end

LEAST_CASES = 200
"""Pairs without which no label model is fitted."""
TELLS = 0.7
"""Accuracy, by the low end of its interval, from which a label model says how many are flipped."""
SHOWN_LENGTHS = 20_000

Judge = Callable[[Sequence[Pair]], Sequence[float]]


@dataclass(frozen=True)
class Settings:
    """How to look.

    Attributes:
        codes: Rules to apply.
        wording: How the sources are to be read.
        as_trained: The checks that need the run's tokenizer; None without.
        judge: Gives the lead of the chosen over the rejected answer of pairs, as log-odds; None for
            the cheap model.
        judge_name: For the reader.
    """

    codes: frozenset[str] = frozenset(BY_CODE)
    wording: Wording = field(default_factory=lambda: Wording({}))
    as_trained: AsTrained | None = None
    judge: Judge | None = None
    judge_name: str = "logistic regression on words, cross-validated"


def inspect(sources: Sequence[Source], settings: Settings) -> Inspection:
    """Read all sources once and say what is wrong with them.

    Memory does not grow with the texts: some 200 bytes a record, and a temporary file with the
    word triples of all.

    Args:
        sources: At least one.
        settings: How to look.

    Raises:
        UserError: If a source cannot be read at all, or holds no pairs.
    """
    ordered = sorted(sources, key=lambda source: not source.held_out)
    with closing(Survey(settings.as_trained, seed=settings.wording.seed)) as survey:
        facts = [_taken(survey, source, settings) for source in ordered]
        return _found(survey, facts, ordered, settings)


def _taken(survey: Survey, source: Source, settings: Settings) -> SourceFacts:
    """What a source is, once it is read."""
    number = survey.take(read_pairs(source, settings.wording), held_out=source.held_out)
    form = format_of(source, settings.wording)
    return SourceFacts(source.path, form.name, number, source.held_out)


def _found(
    survey: Survey, facts: list[SourceFacts], sources: Sequence[Source], settings: Settings
) -> Inspection:
    columns, ledger = survey.ledger.columns(), survey.ledger
    near = survey.records.near_earlier()
    known = tendencies(columns)
    labels = _labels(survey, settings) if "PREF403" in settings.codes else None
    found = [
        *_by_themselves(survey),
        *_together(survey, columns, near),
        *_of_tendencies(known, columns, ledger.sources),
        *_of_labels(labels),
    ]
    kept = {f.code: f for f in found if f.code in settings.codes}
    findings = [kept[rule.code] for rule in worst(kept)]
    return Inspection(
        sources=facts,
        pairs=int(columns.is_pair.sum()),
        others=_others(survey),
        findings=findings,
        tendencies=known,
        by_source=source_rows(columns, ledger.sources),
        lengths=_lengths(columns),
        labels=labels,
        unsure=near.unsure,
        ledger=ledger,
        examples=examples_of(findings, sources, settings.wording, ledger),
    )


def _by_themselves(survey: Survey) -> Iterator[Finding]:
    for code, broken in survey.broken.items():
        details = dict(broken.details.most_common())
        rows = np.array(broken.rows, dtype=np.int64)
        number = f"{len(rows):,} record{'s' * (len(rows) != 1)}"
        yield Finding(code, number, rows, details=details)


def _together(survey: Survey, columns: Columns, near: Near) -> Iterator[Finding]:
    """What records break with others."""
    doubled = duplicates(columns)
    yield from _matched("PREF301", doubled, columns, "of an earlier record")
    rows = np.array(survey.record_rows, dtype=np.int64)
    fresh = ~np.isin(rows[near.rows], doubled.rows)
    alike = Matches(rows[near.rows][fresh], rows[near.twins][fresh])
    yield from _matched("PREF302", alike, columns, "of an earlier record")
    swapped = contradictions(columns)
    yield from _matched("PREF303", swapped, columns, "with the other label in another record")
    leaked = leaked_prompts(columns)
    yield from _matched("PREF304", leaked, columns, "whose prompt is held out")
    again = repeated_prompts(columns, np.union1d(doubled.rows, swapped.rows))
    yield from _matched("PREF306", again, columns, "with the prompt of an earlier record")
    yield from _of_prompts(survey, columns)


def _of_prompts(survey: Survey, columns: Columns) -> Iterator[Finding]:
    """Prompts that are nearly another's."""
    places = np.array(survey.prompt_rows, dtype=np.int64)
    close = survey.prompts.near_first(survey.held_out_prompts)
    other = columns.prompt[places[close.rows]] != columns.prompt[places[close.twins]]
    leaked = Matches(places[close.rows][other], places[close.twins][other])
    yield from _matched("PREF305", leaked, columns, "nearly the same as one that is held out")
    near = survey.prompts.near_earlier()
    inside = columns.held_out[places[near.rows]] == columns.held_out[places[near.twins]]
    again = Matches(places[near.rows][inside], places[near.twins][inside])
    yield from _matched("PREF307", again, columns, "nearly the same as an earlier one")


def _matched(code: str, found: Matches, columns: Columns, what: str) -> Iterator[Finding]:
    if not len(found.rows):
        return
    across = columns.held_out[found.rows] != columns.held_out[found.twins]
    message = f"{len(found.rows):,} {what}"
    if across.any() and not across.all():
        message += f", {int(across.sum()):,} of them across training and held-out data"
    yield Finding(code, message, found.rows, found.twins)


def _of_tendencies(
    known: Sequence[Tendency], columns: Columns, names: Sequence[str]
) -> Iterator[Finding]:
    nothing = np.zeros(0, dtype=np.int64)
    length, *styles = known
    if length.decides:
        yield Finding("PREF401", told_of(length), nothing)
    deciding = [told_of(style) for style in styles if style.decides]
    if deciding:
        yield Finding("PREF402", "; ".join(deciding), nothing)
    lacking = without_end(columns, names)
    if lacking:
        rows = np.flatnonzero(np.logical_or.reduce([mask for _, _, mask in lacking]))
        message = "; ".join(f"{name or 'without a source'}: no {end}" for name, end, _ in lacking)
        yield Finding("PREF503", message, rows)


def _labels(survey: Survey, settings: Settings) -> Labels | None:
    """Probabilities of the labels of a sample; None where there are too few."""
    cases = survey.cases
    if len(cases) < LEAST_CASES:
        return None
    pairs = [pair for _, pair in cases]
    if settings.judge is None:
        texts = [
            flips.Case(row, _last(p.prompt), _last(p.chosen), _last(p.rejected)) for row, p in cases
        ]
        log_odds = flips.margins(texts)
    else:
        log_odds = np.array(settings.judge(pairs))
    right = share_of(((log_odds > 0) + 0.5 * (log_odds == 0)).tolist())
    chances = flips.probabilities(log_odds)
    noise = flips.noise_rate(chances) if right.low > TELLS else None
    rows = np.array([row for row, _ in cases], dtype=np.int64)
    return Labels(settings.judge_name, right, noise, rows, chances)


def _of_labels(labels: Labels | None) -> Iterator[Finding]:
    if labels is None:
        return
    unlikely = np.flatnonzero(labels.probabilities < flips.FLIPPED_BELOW)
    if len(unlikely):
        order = unlikely[np.argsort(labels.probabilities[unlikely], kind="stable")]
        message = f"{len(order):,} of {len(labels.rows):,} pairs asked about have an unlikely label"
        scores = labels.probabilities[order]
        yield Finding("PREF403", message, labels.rows[order], scores=scores)


def _others(survey: Survey) -> dict[str, int]:
    reasons: dict[str, int] = {}
    for code in ("PREF101", "PREF102", "PREF103", "PREF106"):
        broken = survey.broken.get(code)
        if broken is not None:
            reasons |= dict(broken.details)
    return reasons


def _lengths(columns: Columns) -> dict[str, list[float]]:
    rows = np.flatnonzero(columns.is_pair)
    rows = rows[:: max(len(rows) // SHOWN_LENGTHS, 1)]
    return {
        "chosen": columns.chosen_length[rows].astype(float).tolist(),
        "rejected": columns.rejected_length[rows].astype(float).tolist(),
    }


def _last(conversation: Conversation) -> str:
    return conversation[-1]["content"] if conversation else ""
