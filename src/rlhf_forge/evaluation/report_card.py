"""What is known of a reward model before anything is optimised against it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.card_rules import Check, Verdict
from rlhf_forge.evaluation.reliability import Reliability
from rlhf_forge.evaluation.statistics import Mean, Share

CARD = "card.json"
FORMAT = 1


@dataclass(frozen=True)
class Histogram:
    """How scores are spread.

    Attributes:
        edges: Of the bins, one more than there are bins, in normalised scores.
        chosen: Chosen answers in each.
        rejected: Rejected ones.
    """

    edges: list[float]
    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class Probe:
    """What one probe told.

    Attributes:
        below: Share of prompts where it scores below the demonstration, a tie counting half.
        gain: Its score less that of the demonstration, mean, in normalised scores.
    """

    below: Share
    gain: Mean


@dataclass(frozen=True)
class Disagreement:
    """Where the members of an ensemble part.

    Attributes:
        accuracies: Of each member.
        spread: Standard deviation of their scores of an answer, mean over all answers.
        split: Share of pairs that they do not all order alike.
        accuracy_agreed: Accuracy of the ensemble on the other pairs.
        accuracy_split: And on these.
    """

    accuracies: list[float]
    spread: float
    split: Share
    accuracy_agreed: Share
    accuracy_split: Share


@dataclass(frozen=True)
class Mistake:
    """A pair on which model and label disagree.

    Attributes:
        margin: Score of the chosen answer less that of the other, normalised.
        origin: Where the pair stands.
        prompt: What was asked last, shortened.
        chosen: The answer people preferred, shortened.
        rejected: The other.
    """

    margin: float
    origin: str
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class ReportCard:
    """The card: checks with a verdict each, and what they were made from.

    Attributes:
        verdict: The worst of the checks.
        checks: In the order of reading.
        n: Held-out pairs.
        ceiling: Best accuracy that the labels allow, where the data tells.
        longer_wins: Share of labels that go with the longer answer, a tie in length counting half.
        majority: The better of "the longer wins" and "the shorter wins".
        sources: Accuracy by source.
        length_gaps: Accuracy by how long the chosen answer is beside the other.
        reliability: Calibration, in the nats of training.
        histogram: Of normalised scores.
        margin: Mean normalised score of chosen less rejected.
        margin_median: Its median.
        probes: By name.
        mistakes: The most confident ones.
        disagreement: Of an ensemble; None if it is none.
        format: Version of this file.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    verdict: Verdict
    checks: list[Check]
    n: int
    ceiling: float | None
    longer_wins: float
    majority: float
    sources: dict[str, Share]
    length_gaps: dict[str, Share]
    reliability: Reliability
    histogram: Histogram
    margin: Mean
    margin_median: float
    probes: dict[str, Probe]
    mistakes: list[Mistake]
    disagreement: Disagreement | None = None
    format: int = FORMAT

    def of(self, verdict: Verdict) -> list[Check]:
        """The checks with this verdict."""
        return [check for check in self.checks if check.verdict == verdict]


def write_report(card: ReportCard, folder: Path) -> None:
    """Write ``card.json`` into ``folder``."""
    text = json.dumps(asdict(card), indent=1, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def read_report(folder: Path) -> ReportCard | None:
    """The report card of an artefact; None if it has none.

    Raises:
        UserError: If it is broken, or of another format.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        return TypeAdapter(ReportCard).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: not a report card of format {FORMAT} ({key}: {first['msg']})"
        ) from None
