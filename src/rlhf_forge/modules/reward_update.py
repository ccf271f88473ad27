"""What the reward stage learns from a pair: its loss, and what counts as won."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from jaxtyping import Float
from torch import Tensor

from rlhf_forge.data.collate import PairBatch
from rlhf_forge.data.tokenize import Example
from rlhf_forge.errors import UserError
from rlhf_forge.functional.losses import bradley_terry_loss
from rlhf_forge.modules.settings import require


@dataclass(frozen=True)
class PairLoss:
    """Bradley-Terry and what is known of a pair; its numbers are those of `RewardModule`."""

    label_smoothing: float
    centering_coef: float
    margin_coef: float
    soft_labels: bool

    def __post_init__(self) -> None:
        smoothing = self.label_smoothing
        require(0 <= smoothing < 0.5, "label_smoothing", "in [0, 0.5)", smoothing)
        for name in ("centering_coef", "margin_coef"):
            got = getattr(self, name)
            require(0 <= got < inf, name, "0 or more and finite", got)

    def __call__(
        self,
        batch: PairBatch,
        chosen: Float[Tensor, "pairs"],
        rejected: Float[Tensor, "pairs"],
        *,
        num_pairs: int,
    ) -> Float[Tensor, ""]:
        """Sum over the pairs given, divided by ``num_pairs``.

        Args:
            batch: The pairs, with what is known of them.
            chosen: Score of each preferred answer.
            rejected: Score of the other.
            num_pairs: Pairs in the whole optimiser step.
        """
        owed = None if self.margin_coef == 0 else batch.margin
        preference = batch.preference if self.soft_labels else None
        return bradley_terry_loss(
            chosen,
            rejected,
            num_pairs=num_pairs,
            margin=None if owed is None else self.margin_coef * owed.to(chosen),
            preference=None if preference is None else preference.to(chosen),
            centering_coef=self.centering_coef,
            label_smoothing=self.label_smoothing,
            weights=None if batch.weight is None else batch.weight.to(chosen),
        )

    @property
    def unread(self) -> dict[str, str]:
        """Why labels of pairs are not read; see `rlhf_forge.modules.pair_labels`."""
        margin = {} if self.margin_coef else {"a margin": "model.init_args.margin_coef is 0"}
        share = {} if self.soft_labels else {"a preference": "model.init_args.soft_labels is false"}
        return margin | share

    def require_labels(self, examples: Sequence[Example]) -> None:
        """Refuse an option that reads what no pair of the data has.

        Raises:
            UserError: If it would do nothing.
        """
        for key, label in (("margin_coef", "margin"), ("soft_labels", "preference")):
            if getattr(self, key) and all(getattr(e.record, label) is None for e in examples):
                raise UserError(
                    f"model.init_args.{key}: no pair of the data has a {label}",
                    hint=f"leave the key out; docs/formats.md says which formats give a {label}",
                )


def won(
    batch: PairBatch, chosen: Float[Tensor, "pairs"], rejected: Float[Tensor, "pairs"]
) -> Float[Tensor, "pairs"]:
    """`wins`, times what each pair counts for."""
    share = wins(chosen, rejected)
    return share if batch.weight is None else share * batch.weight.to(share)


def wins(
    chosen: Float[Tensor, "pairs"], rejected: Float[Tensor, "pairs"]
) -> Float[Tensor, "pairs"]:
    """1 where the preferred answer scores higher, 0.5 for equal scores, else 0."""
    return (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
