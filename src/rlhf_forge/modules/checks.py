"""What must hold before a run may go on; a failure names its likely causes."""

from math import isclose

from jaxtyping import Bool, Float
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from rlhf_forge.errors import UserError
from rlhf_forge.rollout import Rollout

# Nats a token (k3) between the same weights where only the shapes of the forwards differ, in bf16.
ROUNDING = 1e-4


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
