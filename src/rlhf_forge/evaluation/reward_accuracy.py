"""How often a reward model sides with the labels, beside how often anyone could."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import member_scores, members_of
from rlhf_forge.data.collate import collate_pairs, micro_batches, pair_tokens, take
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.evaluation.statistics import mean_of, share_of, wins_of
from rlhf_forge.functional.ensembles import ensemble_score

MAX_TOKENS = 16_384


@dataclass(frozen=True)
class PairScores:
    """Scores of both answers of some pairs, their labels, and the best accuracy those allow.

    Attributes:
        first: Scores of the answers read first.
        second: Those of the others, in the same order.
        preferred: For each pair the share of its labels that prefer the first.
        agreement: For each pair how often its label sides with the truth; None where unknown.
    """

    first: list[float]
    second: list[float]
    preferred: list[float]
    agreement: list[float | None]

    def of(self, rows: Sequence[int]) -> "PairScores":
        """Those of some pairs alone."""
        return PairScores(
            [self.first[row] for row in rows],
            [self.second[row] for row in rows],
            [self.preferred[row] for row in rows],
            [self.agreement[row] for row in rows],
        )

    def accuracy(self) -> dict[str, float | int | None]:
        """Share of labels sided with, the ceiling where all pairs tell it, and the number of pairs.

        The 95 % interval is that of as many pairs with one label each: where a pair has more, it
        is too wide rather than too narrow.
        """
        wins = wins_of(self.first, self.second)
        share = share_of(
            [p * win + (1 - p) * (1 - win) for win, p in zip(wins, self.preferred, strict=True)]
        )
        known = [a for a in self.agreement if a is not None]
        ceiling = mean_of(known).value if len(known) == len(self.agreement) else None
        return {
            "accuracy": share.value,
            "low": share.low,
            "high": share.high,
            "ceiling": ceiling,
            "n": share.n,
        }


def score_pairs(backbone: Backbone, role: str, pairs: Sequence[PairExample]) -> PairScores:
    """Scores of held-out pairs, the chosen answer first.

    The ceiling comes from their field ``agreement``, if they have it.
    """
    return labelled(ensemble_score(scores_by_member(backbone, role, pairs).flatten(1)), pairs)


def labelled(scores: Float[Tensor, "two_pairs"], pairs: Sequence[PairExample]) -> PairScores:
    """Scores, those of all chosen answers before those of the others, with the pairs' labels."""
    agreement = [_share(pair.record.fields.get("agreement")) for pair in pairs]
    chosen, rejected = scores.view(2, -1).tolist()
    shares = [pair.record.preference for pair in pairs]
    preferred = [1.0 if share is None else share for share in shares]
    return PairScores(chosen, rejected, preferred, agreement)


@torch.no_grad()
def scores_by_member(
    backbone: Backbone, role: str, pairs: Sequence[PairExample], *, max_tokens: int = MAX_TOKENS
) -> Float[Tensor, "members two pairs"]:
    """What each member of an ensemble gives chosen and rejected answers; of one model its own."""
    batch = collate_pairs(list(enumerate(pairs)))
    tokens = pair_tokens(batch, pads=backbone.pads)
    scores = torch.empty(len(members_of(backbone, role)), 2, len(pairs))
    for rows in micro_batches(tokens, max_tokens=max_tokens, pads=backbone.pads):
        part = take(batch, rows)
        values = member_scores(
            backbone,
            part.tokens.to(backbone.device),
            part.response.to(backbone.device),
            role=role,
        )
        scores[:, :, rows] = values.view(len(scores), 2, -1).cpu()
    return scores


def _share(told: object) -> float | None:
    """A column of the name may hold anything: only a share is one."""
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 <= told <= 1:
        return None
    return float(told)


def by_kind(pairs: Sequence[PairExample]) -> dict[str, list[int]]:
    """Places of the pairs that have a field ``kind``, under that kind."""
    kinds: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        kind = pair.record.fields.get("kind")
        if kind is not None:
            kinds.setdefault(str(kind), []).append(row)
    return kinds
