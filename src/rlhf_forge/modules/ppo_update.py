"""One optimiser step of PPO: both losses over its micro-batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import values_before
from rlhf_forge.functional.losses import clipped_policy_loss, clipped_value_loss
from rlhf_forge.modules.settings import UpdateSettings
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


def accumulate(
    backbone: Backbone,
    minibatch: Sequence[Experience],
    settings: UpdateSettings,
    *,
    temperature: float,
    backward: Callable[[Tensor], None],
) -> UpdateStats:
    """Gradients of one optimiser step, micro-batch by micro-batch.

    Every loss is divided by the token count of the whole step, so how it is cut into micro-batches
    changes nothing but memory.

    Args:
        backbone: With the roles policy and value.
        minibatch: Its micro-batches.
        settings: Clip ranges and the weight of the critic's loss.
        temperature: The responses were sampled at.
        backward: What is called with each loss.

    Returns:
        Statistics before the step, which is the caller's to take.
    """
    num_tokens = sum(int(micro.mask.sum()) for micro in minibatch)
    approx_kl = clip_fraction = value_clip_fraction = 0.0
    ratio_max = 0.0
    for micro in minibatch:
        share = int(micro.mask.sum()) / max(num_tokens, 1)
        with backbone.using("policy"):
            log_probs, _ = backbone.log_probs(micro.tokens, micro.mask, temperature=temperature)
        policy_loss, policy = clipped_policy_loss(
            log_probs,
            micro.old_log_probs,
            micro.advantages,
            micro.mask,
            clip_range=settings.clip_range,
            num_tokens=num_tokens,
        )
        backward(policy_loss)
        with backbone.using("value"):
            values = values_before(backbone.scalars(micro.tokens), micro.mask)
        value_loss, value = clipped_value_loss(
            values,
            micro.old_values,
            micro.returns,
            micro.mask,
            clip_range=settings.value_clip_range,
            num_tokens=num_tokens,
        )
        backward(settings.value_coef * value_loss)
        approx_kl += share * policy.approx_kl.item()
        clip_fraction += share * policy.clip_fraction.item()
        value_clip_fraction += share * value.clip_fraction.item()
        ratio_max = max(ratio_max, policy.ratio_max.item())
    return UpdateStats(approx_kl, ratio_max, clip_fraction, value_clip_fraction)
