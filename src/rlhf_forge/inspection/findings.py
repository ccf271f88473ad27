"""What an inspection found: each rule that was broken, by which records."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rlhf_forge.evaluation.statistics import Share
from rlhf_forge.inspection.ledger import Ledger
from rlhf_forge.inspection.rule import Rule
from rlhf_forge.inspection.rules import BY_CODE
from rlhf_forge.inspection.tendencies import SourceRow, Tendency

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Finding:
    """A rule, and the records that break it.

    Attributes:
        code: Of the rule.
        message: What was found, in a sentence.
        rows: Numbers of the records, the clearest case first where there is an order.
        twins: For each the record that it breaks the rule with; none where it does so alone.
        details: How many records for which detail.
        scores: For each record the probability of its label, where that is why.
    """

    code: str
    message: str
    rows: Numbers
    twins: Numbers | None = None
    details: Mapping[str, int] = field(default_factory=dict)
    scores: NDArray[np.float64] | None = None

    @property
    def rule(self) -> Rule:
        """The rule."""
        return BY_CODE[self.code]


@dataclass(frozen=True)
class Example:
    """A record that breaks a rule, as text.

    Attributes:
        origin: Where it stands.
        twin: Where the record stands that it breaks the rule with; empty if it does so alone.
        texts: prompt, chosen and rejected, or the row where it is no pair.
        score: Probability of its label, where that is why.
    """

    origin: str
    twin: str
    texts: Mapping[str, str]
    score: float | None = None


@dataclass(frozen=True)
class Labels:
    """What a model that did not see a pair makes of its label.

    Attributes:
        judge: Which model.
        accuracy: Share of labels that it sides with.
        noise: Estimated share of labels that are the wrong way round; None where the model is too
            weak to say.
        rows: The pairs that it was asked about.
        probabilities: Of the label of each.
    """

    judge: str
    accuracy: Share
    noise: float | None
    rows: Numbers
    probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class SourceFacts:
    """A path that was read."""

    path: str
    form: str
    records: int
    held_out: bool


@dataclass(frozen=True)
class Inspection:
    """All that was found.

    Attributes:
        sources: What was read.
        pairs: Records that are pairs.
        others: Records that are none, for each reason.
        findings: Errors first, then by code.
        tendencies: What predicts the labels.
        by_source: The sources that records name.
        lengths: Characters of chosen and rejected answers, of a sample.
        labels: None if there were too few pairs, or nobody asked.
        unsure: Records that were not compared with all that might be near duplicates of them.
        ledger: Where each record stands, by its number.
        examples: Some records of each finding.
    """

    sources: list[SourceFacts]
    pairs: int
    others: Mapping[str, int]
    findings: list[Finding]
    tendencies: list[Tendency]
    by_source: list[SourceRow]
    lengths: Mapping[str, list[float]]
    labels: Labels | None
    unsure: int
    ledger: Ledger
    examples: Mapping[str, list[Example]]

    @property
    def records(self) -> int:
        """All records that were read."""
        return self.pairs + sum(self.others.values())

    def count(self, severity: str) -> int:
        """Records and facts found by rules of one severity."""
        return sum(max(len(f.rows), 1) for f in self.findings if f.rule.severity == severity)
