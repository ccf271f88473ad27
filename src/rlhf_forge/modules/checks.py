"""What must hold before a run may go on; a failure names its likely causes."""

from rlhf_forge.errors import UserError
from rlhf_forge.rollout import Rollout


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


def require_unit_ratio(ratio_max: float, approx_kl: float) -> None:
    """On the first minibatch new and old policy are the same: the ratio must be exactly 1.

    Raises:
        UserError: With the likely causes.
    """
    if ratio_max != 1.0 or approx_kl != 0.0:
        raise UserError(
            f"self-test: the first minibatch's ratio is {ratio_max!r}, not 1 "
            f"(approx_kl {approx_kl:.2g})",
            hint="likely causes: dropout on, old log-probs from other micro-batches or another "
            "temperature, or kernels that differ with and without gradients",
        )
