"""What a report card is computed from: held-out pairs and probes, scored."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.data.records import Pair
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.evaluation.probes import probe_scores
from rlhf_forge.evaluation.reward_accuracy import (
    MAX_TOKENS,
    PairScores,
    labelled,
    scores_by_member,
)
from rlhf_forge.evaluation.statistics import wins_of
from rlhf_forge.functional.ensembles import ensemble_score

# After training: accuracy known to 0.05 or so, for some 600 + 300 rows to score.
MOST_PAIRS, MOST_PROBED = 300, 48


@dataclass(frozen=True)
class Evidence:
    """Scored pairs, entry by entry, and probes.

    Attributes:
        scores: Of both answers, the chosen one first, and the labels.
        lengths: Tokens of the chosen answer and of the other.
        sources: Where each pair is from; None where the data does not say.
        records: The pairs as they were read.
        gains: For each probe its score less that of the demonstration, prompt by prompt.
        unit: What 1 is in the raw scores that the loss trained, in nats.
        members: The same scores by each member of an ensemble; empty if it is none.
    """

    scores: PairScores
    lengths: list[tuple[int, int]]
    sources: list[str | None]
    records: list[Pair]
    gains: dict[str, list[float]]
    unit: float = 1.0
    members: list[PairScores] = field(default_factory=list)

    @property
    def wins(self) -> list[float]:
        """For each pair the share of its labels that the model sides with."""
        found = wins_of(self.scores.first, self.scores.second)
        return [
            share * win + (1 - share) * (1 - win)
            for win, share in zip(found, self.scores.preferred, strict=True)
        ]

    @property
    def margins(self) -> list[float]:
        """Score of each chosen answer less that of the other."""
        return [a - b for a, b in zip(self.scores.first, self.scores.second, strict=True)]

    @property
    def longer_wins(self) -> list[float]:
        """For each pair the share of its labels that go with the longer answer."""
        return _towards(self._sides, self.scores.preferred)

    @property
    def longer_scores_higher(self) -> list[float]:
        """For each pair 1 where the longer answer has the higher score, 0.5 for a tie."""
        return _towards(self._sides, wins_of(self.scores.first, self.scores.second))

    @property
    def _sides(self) -> list[int]:
        """1 where the chosen answer is the longer one, -1 where it is the shorter one."""
        return [(a > b) - (a < b) for a, b in self.lengths]

    @property
    def unlike(self) -> list[int]:
        """Places of the pairs whose answers differ in length."""
        return [row for row, side in enumerate(self._sides) if side]

    def wins_where(self, side: int) -> list[float]:
        """`wins` where the chosen answer is the longer one (side 1), or the shorter one (-1)."""
        return [win for win, own in zip(self.wins, self._sides, strict=True) if own == side]

    def by_source(self) -> dict[str, list[int]]:
        """Places of the pairs of each source."""
        found: dict[str, list[int]] = {}
        for row, source in enumerate(self.sources):
            if source is not None:
                found.setdefault(source, []).append(row)
        return found


def gather(
    backbone: Backbone,
    role: str,
    template: ChatTemplate,
    pairs: Sequence[PairExample],
    *,
    probed: int = MOST_PROBED,
    max_tokens: int = MAX_TOKENS,
) -> Evidence:
    """Score held-out pairs, and probes made from some of them.

    Args:
        backbone: With the role, and reference if its head reads likelihoods.
        role: Whose head scores.
        template: Renders the probes.
        pairs: Held out.
        probed: At most so many pairs, the first ones, are made probes of.
        max_tokens: Padded tokens of one forward.
    """
    by_member = scores_by_member(backbone, role, pairs, max_tokens=max_tokens).flatten(1)
    scores = labelled(ensemble_score(by_member), pairs)
    members = [labelled(own, pairs) for own in by_member] if len(by_member) > 1 else []
    records = [pair.record for pair in pairs]
    probes = probe_scores(backbone, role, template, records[:probed], max_tokens=max_tokens)
    gains = {
        name: [
            probe - demonstration
            for probe, demonstration in zip(found, scores.first[:probed], strict=True)
            if probe is not None
        ]
        for name, found in probes.items()
    }
    lengths = [(sum(pair.chosen_response), sum(pair.rejected_response)) for pair in pairs]
    sources = [source_of(record) for record in records]
    unit = float(backbone.head(role).std)
    return Evidence(scores, lengths, sources, records, gains, unit, members)


def source_of(record: Pair) -> str | None:
    """Where a pair is from: its source, or its field ``kind``."""
    told = record.source or record.fields.get("kind")
    return told if isinstance(told, str) else None


def _towards(sides: Sequence[int], chosen: Sequence[float]) -> list[float]:
    """What speaks for the chosen answer as what speaks for the longer one; 0.5 for equals."""
    return [
        0.5 if side == 0 else share if side > 0 else 1 - share
        for side, share in zip(sides, chosen, strict=True)
    ]
