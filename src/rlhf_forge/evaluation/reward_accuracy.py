"""How often a reward model sides with the labels, beside how often anyone could."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.collate import collate_pairs, micro_batches, take
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.evaluation.statistics import mean_of, share_of, wins_of

MAX_TOKENS = 16_384


@dataclass(frozen=True)
class PairScores:
    """Scores of both answers of some pairs, and the best accuracy the labels allow."""

    chosen: list[float]
    rejected: list[float]
    agreement: list[float] | None

    def accuracy(self) -> dict[str, float | int | None]:
        """Accuracy with its 95 % interval, the ceiling where it is known, and the number."""
        share = share_of(wins_of(self.chosen, self.rejected))
        ceiling = None if self.agreement is None else mean_of(self.agreement).value
        return {
            "accuracy": share.value,
            "low": share.low,
            "high": share.high,
            "ceiling": ceiling,
            "n": share.n,
        }


def score_pairs(backbone: Backbone, role: str, pairs: Sequence[PairExample]) -> PairScores:
    """Scores of held-out pairs; the ceiling comes from their field ``agreement``, if any."""
    batch = collate_pairs(list(enumerate(pairs)))
    longer = batch.mask.sum(-1).view(2, -1).amax(0).tolist()
    scores = torch.empty(2, len(pairs))
    with torch.no_grad():
        for rows in micro_batches(longer, max_tokens=MAX_TOKENS // 2):
            part = take(batch, rows)
            values = score(
                backbone,
                part.tokens.to(backbone.device),
                part.response.to(backbone.device),
                role=role,
            )
            scores[:, rows] = values.view(2, -1).cpu()
    agreement = [pair.record.fields.get("agreement") for pair in pairs]
    known = [float(a) for a in agreement if a is not None]
    return PairScores(
        scores[0].tolist(), scores[1].tolist(), known if len(known) == len(pairs) else None
    )


def by_kind(pairs: Sequence[PairExample]) -> dict[str, list[PairExample]]:
    """Pairs under their field ``kind``, if they have it."""
    kinds: dict[str, list[PairExample]] = {}
    for pair in pairs:
        kind = pair.record.fields.get("kind")
        if kind is not None:
            kinds.setdefault(str(kind), []).append(pair)
    return kinds
