"""What must hold before a run may go on; a failure names its likely causes."""

from math import isclose

import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from transformers import DynamicCache

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.errors import UserError
from rlhf_forge.rollout import Rollout

# Nats a token (k3) between the same weights where only the shapes of the forwards differ, in bf16.
ROUNDING = 1e-4
# What is added to each of the policy's numbers for a moment: enough to be seen in bf16.
MOVE = 0.01


def require_sound_start(backbone: Backbone, rollout: Rollout, prompt: Int[Tensor, "time"]) -> None:
    """What must hold of the first rollout: see the three checks.

    Raises:
        UserError: With the likely causes.
    """
    require_zero_kl(rollout)
    require_live_policy(backbone, prompt)
    warn_if_none_ends(rollout.finished)


@torch.no_grad()
def require_live_policy(backbone: Backbone, prompt: Int[Tensor, "time"]) -> None:
    """Responses must come from the adapter that learns: moved, it must move their log-probs.

    It is moved for a moment and put back to the bit; the reference's log-probs must stay.

    Args:
        backbone: With the roles policy and reference.
        prompt: Tokens of one prompt, without padding.

    Raises:
        UserError: With the likely causes.
    """
    parameters = backbone.parameters_of("policy")
    kept = [parameter.clone() for parameter in parameters]
    before = {role: _first_logits(backbone, role, prompt) for role in ("policy", "reference")}
    for parameter in parameters:
        parameter.add_(MOVE)
    after = {role: _first_logits(backbone, role, prompt) for role in before}
    for parameter, value in zip(parameters, kept, strict=True):
        parameter.copy_(value)
    if torch.equal(before["policy"], after["policy"]):
        raise UserError(
            "self-test: responses do not come from the policy's adapter: moving it changes nothing",
            hint="likely causes: adapters switched off in sampling, or weights that were merged or "
            "copied before",
        )
    if not torch.equal(before["reference"], after["reference"]):
        raise UserError(
            "self-test: moving the policy's adapter moves the reference too",
            hint="likely causes: roles that share tensors, or a switch of roles that is not heard",
        )


def _first_logits(
    backbone: Backbone, role: str, prompt: Int[Tensor, "time"]
) -> Float[Tensor, "one vocab"]:
    tokens = prompt.unsqueeze(0)
    positions = torch.arange(len(prompt), device=prompt.device).unsqueeze(0)
    cache = DynamicCache(config=backbone.model.config)
    with backbone.using(role):
        return backbone.next_logits(tokens, torch.ones_like(tokens), positions, cache)


def warn_if_none_ends(finished: Bool[Tensor, "batch"]) -> None:
    """Warn where no response of the first rollout ended by itself.

    Then the missing-EOS rule gives all of them one score, and there is nothing to learn from.

    Args:
        finished: False where the length limit cut the response.
    """
    if not finished.any():
        rank_zero_warn(
            "self-test: no response of the first iteration ended by itself. Likely causes: "
            "rollout.max_new_tokens is too small, the SFT model has not learnt to end its answers, "
            "or its data ended them with another token than the chat template's"
        )


def require_zero_kl(rollout: Rollout) -> None:
    """At step 0 policy and reference are the same weights: every log-prob must agree bit for bit.

    Raises:
        UserError: With the likely causes.
    """
    gap = (rollout.log_probs - rollout.ref_log_probs).abs().max().item()
    if gap != 0.0:
        raise UserError(
            f"self-test: KL(policy, reference) is not 0 at step 0: a log-prob differs by {gap:.2g}",
            hint="likely causes: adapters in different dtypes, dropout on, another temperature "
            "for the reference, or a policy that is not a copy of the reference",
        )


def require_unit_ratio(ratio_max: float, approx_kl: float, *, same_cuts: bool = True) -> None:
    """On the first minibatch new and old policy are the same: the ratio must be exactly 1.

    Args:
        ratio_max: Largest ratio of any token.
        approx_kl: k3 estimate, in nats a token.
        same_cuts: Whether the old log-probs are of these very micro-batches. If not, as memory ran
            out in between, kernels round otherwise, and the two may differ by `ROUNDING`: to score
            anew would cost a pass under every role to make sure of what the next iteration shows.

    Raises:
        UserError: With the likely causes.
    """
    exact = ratio_max == 1.0 and approx_kl == 0.0
    if not (exact if same_cuts else approx_kl <= ROUNDING):
        raise UserError(
            f"self-test: the first minibatch's ratio is {ratio_max!r}, not 1 "
            f"(approx_kl {approx_kl:.2g})",
            hint="likely causes: dropout on, old log-probs from other micro-batches or another "
            "temperature, or kernels that differ with and without gradients",
        )


def require_untrained_rewards(rewards: Float[Tensor, "two pairs"]) -> None:
    """At step 0 policy and reference are the same weights: every implied reward must be exactly 0.

    Args:
        rewards: beta (log π − log π_ref) of chosen and rejected responses before the first step.

    Raises:
        UserError: With the likely causes.
    """
    gap = rewards.abs().max().item() if rewards.numel() else 0.0
    if gap != 0.0:
        raise UserError(
            f"self-test: an implied reward is {gap:.2g} at step 0, not 0: policy and reference "
            "differ",
            hint="likely causes: adapters in different dtypes, dropout on, a policy that is not a "
            "copy of the reference, or reference log-probs of other weights or micro-batches",
        )


def require_untrained_loss(loss: float, expected: float) -> None:
    """With all implied rewards 0 the loss is known: log 2 of DPO, 1 / (4 beta²) of IPO.

    Raises:
        UserError: With the likely causes.
    """
    if not isclose(loss, expected, rel_tol=1e-4):
        raise UserError(
            f"self-test: the loss at step 0 is {loss:.6g}, not {expected:.6g}",
            hint="likely causes: losses not divided by the step's number of pairs, or pairs that "
            "are left out or counted twice",
        )


def warn_if_cutting_pays(
    scores: Float[Tensor, "batch"], finished: Bool[Tensor, "batch"], *, penalty: float
) -> None:
    """Warn where a response that never ends scores better than many that do.

    The missing-EOS rule replaces the score of a cut response by ``-penalty``. That is a fine only
    if finished responses score more: above their lower quartile it teaches not to stop.

    Args:
        scores: Of all responses, as the reward model gave them.
        finished: False where the length limit cut the response.
        penalty: Of the rule, in score units.
    """
    if finished.all() or not finished.any():
        return
    quartile = scores[finished].float().quantile(0.25).item()
    if -penalty > quartile:
        rank_zero_warn(
            f"a response cut by the length limit scores {-penalty:g}, but a quarter of the "
            f"finished ones score below {quartile:.2g}: raise objective.missing_eos_penalty"
        )
