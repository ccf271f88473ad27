"""One optimiser step of PPO: both losses over its micro-batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf_forge import ranks
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.packing import to_the_left
from rlhf_forge.backbone.scoring import values_before
from rlhf_forge.functional.kl import kl_estimate
from rlhf_forge.functional.losses import (
    PolicyStats,
    ValueStats,
    clipped_policy_loss,
    clipped_value_loss,
)
from rlhf_forge.modules.settings import Aggregation, UpdateSettings
from rlhf_forge.rollout import Experience


@dataclass(frozen=True)
class UpdateStats:
    """One optimiser step in numbers, over all its response tokens.

    Attributes:
        approx_kl: k3 estimate of KL(old policy, new policy) before the step, nats per token.
        ratio_max: Largest probability ratio before the step.
        clip_fraction: Share of tokens whose policy gain was clipped.
        value_clip_fraction: Share of tokens whose value move was clipped.
        grad_norms: Norm before clipping of the policy's and the critic's gradient; empty where
            the policy had moved too far for another step.
        taken: Whether the step was taken: not if it was stopped, or a norm was not finite.
    """

    approx_kl: float
    ratio_max: float
    clip_fraction: float
    value_clip_fraction: float
    grad_norms: dict[str, float] = field(default_factory=dict)
    taken: bool = False

    def put_together(self) -> "UpdateStats":
        """Of the whole step, where several processes have each seen some micro-batches."""
        means = (self.approx_kl, self.clip_fraction, self.value_clip_fraction)
        approx_kl, clip_fraction, value_clip_fraction = ranks.summed_numbers(*means)
        return replace(
            self,
            approx_kl=approx_kl,
            ratio_max=ranks.largest(self.ratio_max),
            clip_fraction=clip_fraction,
            value_clip_fraction=value_clip_fraction,
        )


@dataclass(frozen=True)
class PolicyTerms:
    """What stands beside the clipped loss of the policy.

    Args:
        temperature: The responses were sampled at.
        max_new_tokens: Longest response.
        kl_coef: Price of a nat of KL from the reference, paid in the loss; 0 where it is paid in
            the reward.
        trained: False while only the critic learns.
    """

    temperature: float
    max_new_tokens: int
    kl_coef: float = 0.0
    trained: bool = True


@dataclass(frozen=True)
class Counts:
    """Of a whole optimiser step: tokens and responses to learn from; of all, the longest.

    Args:
        tokens: That the losses are divided by.
        responses: With at least one of them.
        max_new_tokens: Longest response.
    """

    tokens: int
    responses: int
    max_new_tokens: int

    @classmethod
    def of(cls, learnt: Sequence[Bool[Tensor, "batch time"]], max_new_tokens: int) -> "Counts":
        """Of the tokens that some rows teach; of several processes each gives its own."""
        tokens = sum(int(part.sum()) for part in learnt)
        responses = sum(int(part.any(1).sum()) for part in learnt)
        tokens, responses = (int(total) for total in ranks.summed_numbers(tokens, responses))
        return cls(tokens, responses, max_new_tokens)

    def weights(
        self, learnt: Bool[Tensor, "batch time"], aggregation: Aggregation
    ) -> Float[Tensor, "batch time"]:
        """Weight of each token, so that a sum over tokens / ``tokens`` aggregates as asked."""
        lengths = learnt.sum(1, keepdim=True).expand(learnt.shape)
        if aggregation == "token":
            return torch.ones_like(lengths, dtype=torch.float32)
        each = self.tokens / max(self.responses, 1)
        if aggregation == "constant":
            return torch.full_like(lengths, each / self.max_new_tokens, dtype=torch.float32)
        return each / lengths.clamp_min(1)


def accumulate(
    backbone: Backbone,
    minibatch: Sequence[Experience],
    settings: UpdateSettings,
    terms: PolicyTerms,
    *,
    backward: Callable[[Tensor], None],
    counts: Counts,
) -> UpdateStats:
    """Gradients of one optimiser step, micro-batch by micro-batch.

    Every loss is divided by the counts of the whole step, so how it is cut into micro-batches
    changes nothing but memory.

    Args:
        backbone: With the role policy; and value, if there is a critic.
        minibatch: Its micro-batches.
        settings: Clip ranges and the weight of each loss.
        terms: Of the policy's loss.
        backward: What is called with each loss.
        counts: Of the whole step, of which these may be some micro-batches.

    Returns:
        Statistics before the step, which is the caller's to take; of these micro-batches, as shares
        of the whole.
    """
    approx_kl = clip_fraction = value_clip_fraction = 0.0
    ratio_max = 0.0
    for micro in minibatch:
        share = int(micro.learnt.sum()) / max(counts.tokens, 1)
        policy_loss, policy = _policy_loss(backbone, micro, settings, terms, counts)
        if terms.trained:
            backward(policy_loss)
        if settings.advantage == "gae":
            value_loss, value = _value_loss(backbone, micro, settings, counts)
            backward(settings.value_coef * value_loss)
            value_clip_fraction += share * value.clip_fraction.item()
        approx_kl += share * policy.approx_kl.item()
        clip_fraction += share * policy.clip_fraction.item()
        ratio_max = max(ratio_max, policy.ratio_max.item())
    return UpdateStats(approx_kl, ratio_max, clip_fraction, value_clip_fraction)


def _policy_loss(
    backbone: Backbone,
    micro: Experience,
    settings: UpdateSettings,
    terms: PolicyTerms,
    counts: Counts,
) -> tuple[Tensor, PolicyStats]:
    with backbone.using("policy"):
        log_probs, entropy = backbone.log_probs(
            micro.tokens, micro.mask, temperature=terms.temperature
        )
    weights = counts.weights(micro.learnt, settings.loss_aggregation)
    loss, stats = clipped_policy_loss(
        log_probs,
        micro.old_log_probs,
        micro.advantages,
        micro.learnt,
        clip_range=settings.clip_range,
        clip_range_high=settings.clip_range_high,
        dual_clip=settings.dual_clip,
        weights=weights,
        num_tokens=counts.tokens,
    )
    if not (terms.kl_coef or settings.entropy_coef):
        return loss, stats
    # k2: as a loss its gradient is that of KL(policy, reference) where the policy has sampled.
    kl = kl_estimate(log_probs, micro.ref_log_probs, estimator="k2")
    beside = terms.kl_coef * kl - settings.entropy_coef * entropy
    beside = torch.where(micro.learnt, beside * weights, 0.0).sum() / max(counts.tokens, 1)
    return loss + beside, stats


def _value_loss(
    backbone: Backbone, micro: Experience, settings: UpdateSettings, counts: Counts
) -> tuple[Tensor, ValueStats]:
    with backbone.using("value"):
        scalars = backbone.scalars(micro.tokens, to_the_left(micro.mask))
    values = values_before(scalars, micro.mask)
    return clipped_value_loss(
        values,
        micro.old_values,
        micro.returns,
        micro.learnt,
        clip_range=settings.value_clip_range,
        num_tokens=counts.tokens,
    )
