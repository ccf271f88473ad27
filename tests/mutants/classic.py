"""The faults that PPO has been written with most often.

The loss falls with each of them, the charts look fine, and the policy goes elsewhere.
"""

from tests.mutants.change import (
    ADVANTAGES,
    ENGINE,
    ESTIMATORS,
    LOSSES,
    PPO,
    ROLES,
    ROLLOUT,
    ROWS,
    UPDATE,
    Change,
    mutant,
)

CLASSIC = [
    mutant(
        "the ratio is upside down",
        LOSSES,
        "torch.where(mask, log_probs, 0) - torch.where(mask, old_log_probs, 0)",
        "torch.where(mask, old_log_probs, 0) - torch.where(mask, log_probs, 0)",
    ),
    mutant(
        "clipping works on the wrong side",
        LOSSES,
        "losses = torch.maximum(unclipped, clipped)",
        "losses = torch.minimum(unclipped, clipped)",
    ),
    mutant(
        "advantages have the wrong sign",
        PPO,
        "learnt_tokens(rollout, settings), advantages, returns)",
        "learnt_tokens(rollout, settings), -advantages, returns)",
    ),
    mutant(
        "the score stands one token late",
        ADVANTAGES,
        "is_last = mask & (real_tokens_from_here == 1)",
        "is_last = (mask & (real_tokens_from_here == 1)).roll(1, -1)",
    ),
    mutant(
        "KL is paid for, not charged",
        ADVANTAGES,
        "return torch.where(is_last, scores[:, None], 0) - penalties",
        "return torch.where(is_last, scores[:, None], 0) + penalties",
    ),
    mutant(
        "the KL in the reward is k3",
        PPO,
        'rollout.ref_log_probs, estimator="k1")',
        'rollout.ref_log_probs, estimator="k3")',
    ),
    mutant(
        "the reference is the base and not the SFT model",
        ROLES,
        'backbone.add_role("reference", weights, trainable=False)',
        'backbone.add_bare_role("reference")',
    ),
    mutant(
        "the old log-probs forget the temperature",
        ROLLOUT,
        "log_probs, entropy = backbone.log_probs(part, targets, temperature=temperature)",
        "log_probs, entropy = backbone.log_probs(part, targets, temperature=1.0)",
    ),
    mutant(
        "the mask leaves out the first token",
        ROWS,
        "mask[row, len(prompt) : end] = True",
        "mask[row, len(prompt) + 1 : end] = True",
    ),
    mutant(
        "the mask leaves out the end token",
        ROWS,
        "mask[row, len(prompt) : end] = True",
        "mask[row, len(prompt) : end - 1] = True",
    ),
    mutant(
        "advantages are whitened in each micro-batch",
        ESTIMATORS,
        "return whiten(advantages, mask), returns",
        "return advantages, returns",
        Change(
            UPDATE,
            "        micro.advantages,\n        micro.learnt,",
            "        whiten(micro.advantages, micro.learnt),\n        micro.learnt,",
        ),
        Change(
            UPDATE,
            "from rlhf_forge.functional.kl import kl_estimate\n",
            "from rlhf_forge.functional.kl import kl_estimate\n"
            "from rlhf_forge.functional.masking import whiten\n",
        ),
    ),
    mutant(
        "the policy's loss is divided by each micro-batch's own count",
        UPDATE,
        "weights=weights,\n        num_tokens=counts.tokens,",
        "weights=weights,\n        num_tokens=int(micro.learnt.sum()),",
    ),
    mutant(
        "GAE walks through the padding",
        ADVANTAGES,
        "advantage = torch.where(real, delta + gamma * gae_lambda * advantage, advantage)",
        "advantage = delta + gamma * gae_lambda * advantage",
        Change(
            ADVANTAGES,
            "rewards, values = torch.where(mask, rewards, 0), torch.where(mask, values, 0)",
            "rewards, values = rewards.clone(), values.clone()",
        ),
        Change(
            ADVANTAGES,
            "next_value = torch.where(real, values[:, t], next_value)",
            "next_value = values[:, t]",
        ),
        Change(
            ADVANTAGES,
            "advantages[t] = torch.where(real, advantage, 0)",
            "advantages[t] = advantage",
        ),
    ),
    mutant(
        "the critic's targets are made of whitened advantages",
        ESTIMATORS,
        "return whiten(advantages, mask), returns",
        "return whiten(advantages, mask), whiten(advantages, mask) + rollout.values",
    ),
    mutant(
        "position ids ignore left padding",
        ENGINE,
        "positions[row] = torch.arange(-pad, len(ids))",
        "positions[row] = torch.arange(width)",
    ),
]
