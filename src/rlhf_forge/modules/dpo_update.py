"""One optimiser step of DPO: the loss of a batch of pairs, over its micro-batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from math import log
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_forge import ranks
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.data.collate import PairBatch, take
from rlhf_forge.functional.losses import dpo_loss
from rlhf_forge.functional.preference_losses import ipo_loss, robust_dpo_loss
from rlhf_forge.modules.reference_log_probs import response_log_probs
from rlhf_forge.modules.settings import require, require_above_zero

Loss = Literal["sigmoid", "ipo", "robust"]


@dataclass(frozen=True)
class PreferenceLoss:
    """Which loss of pairs, and its numbers; as `DPOModule` says of them."""

    loss: Loss
    beta: float
    label_smoothing: float

    def __post_init__(self) -> None:
        require_above_zero(beta=self.beta)
        smoothing = self.label_smoothing
        require(0 <= smoothing < 0.5, "label_smoothing", "in [0, 0.5)", smoothing)
        if self.loss == "ipo":
            require(smoothing == 0, "label_smoothing", "0 where loss is ipo", smoothing)
        if self.loss == "robust":
            require(smoothing > 0, "label_smoothing", "above 0 where loss is robust", smoothing)

    @property
    def untrained(self) -> float:
        """The loss of a policy that is its reference."""
        return 1 / (4 * self.beta**2) if self.loss == "ipo" else log(2)

    def rewards(
        self, log_ratios: Float[Tensor, "two pairs"], lengths: Float[Tensor, "two pairs"]
    ) -> Float[Tensor, "two pairs"]:
        """The implied rewards: beta times the log-ratios, for ipo those of a mean token."""
        return self.beta * (log_ratios / lengths if self.loss == "ipo" else log_ratios)

    def __call__(
        self,
        policy: Float[Tensor, "two pairs"],
        reference: Float[Tensor, "two pairs"],
        lengths: Float[Tensor, "two pairs"],
        *,
        num_pairs: int,
    ) -> Float[Tensor, ""]:
        """Sum over the pairs given, divided by ``num_pairs``.

        Args:
            policy: Summed log-probs of chosen and rejected responses, in nats, with gradient.
            reference: The same under the reference.
            lengths: Tokens of each response.
            num_pairs: Pairs of the whole optimiser step.
        """
        if self.loss == "ipo":
            means = (*(policy / lengths), *(reference / lengths))
            return ipo_loss(*means, beta=self.beta, num_pairs=num_pairs)
        function = robust_dpo_loss if self.loss == "robust" else dpo_loss
        return function(
            *policy,
            *reference,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            num_pairs=num_pairs,
        )


@dataclass(frozen=True)
class PairStats:
    """What a pass over a batch saw; detached, chosen responses in row 0, rejected in row 1.

    Where several processes share the batch: 0 for the pairs of the others.

    Attributes:
        loss: Of all pairs together.
        log_probs: Summed log-probs of the policy, in nats.
        log_ratios: The same less those of the reference.
        rewards: Implied by them.
    """

    loss: Float[Tensor, ""]
    log_probs: Float[Tensor, "two pairs"]
    log_ratios: Float[Tensor, "two pairs"]
    rewards: Float[Tensor, "two pairs"]

    def put_together(self) -> "PairStats":
        """Of all pairs, where several processes have each seen some."""
        return PairStats(*(ranks.summed(getattr(self, field.name)) for field in fields(self)))


def accumulate(
    backbone: Backbone,
    batch: PairBatch,
    reference: Float[Tensor, "two pairs"],
    objective: PreferenceLoss,
    *,
    cuts: Sequence[Sequence[int]],
    backward: Callable[[Tensor], object],
) -> PairStats:
    """Loss and gradients of one batch, micro-batch by micro-batch.

    Args:
        backbone: With the role policy.
        batch: Of one optimiser step.
        reference: Summed log-probs of its responses under the reference.
        objective: The loss.
        cuts: Pairs of each micro-batch; the losses are divided by the number of the whole batch.
        backward: What is called with each micro-batch's loss; the step is the caller's to take.
    """
    num_pairs = len(batch.positions)
    lengths = batch.response.sum(-1).view(2, -1).float()
    loss = reference.new_zeros(())
    log_probs, log_ratios, rewards = (torch.zeros_like(reference) for _ in range(3))
    for rows in cuts:
        policy = response_log_probs(backbone, "policy", take(batch, rows))
        part = objective(policy, reference[:, rows], lengths[:, rows], num_pairs=num_pairs)
        backward(part)
        log_probs[:, rows] = policy.detach()
        log_ratios[:, rows] = policy.detach() - reference[:, rows]
        rewards[:, rows] = objective.rewards(log_ratios[:, rows], lengths[:, rows])
        loss += part.detach()
    return PairStats(loss, log_probs, log_ratios, rewards)
