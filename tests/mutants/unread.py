"""Keys that are set and not read: for each one of PPO and of the reward's loss that fault."""

from tests.mutants.change import (
    COLLECT,
    ESTIMATORS,
    PPO,
    REWARD_UPDATE,
    UPDATE,
    Change,
    Mutant,
)

# How much is done at once changes memory and time, and nothing that is computed.
SIZES = {"rollout.max_rows", "updates.micro_batch_tokens"}


def unread(key: str, path: str, old: str, new: str) -> Mutant:
    """The fault that a key is not read."""
    return Mutant(f"{key} is not read", (Change(path, old, new),))


UNREAD = [
    unread(
        "rollout.max_new_tokens",
        PPO,
        "max_new_tokens=rollout.max_new_tokens)",
        "max_new_tokens=128)",
    ),
    unread(
        "rollout.temperature",
        PPO,
        "self.sampling = Sampling(rollout.temperature,",
        "self.sampling = Sampling(1.0,",
    ),
    unread(
        "rollout.responses_per_prompt",
        PPO,
        "self.responses_per_prompt = rollout.responses_per_prompt",
        "self.responses_per_prompt = 1",
    ),
    # -- what is rewarded ----------------------------------------------------------------------
    unread("objective.kl_coef", PPO, "self.kl_coef = objective.kl_coef", "self.kl_coef = 0.05"),
    unread(
        "objective.kl_target",
        ESTIMATORS,
        "if objective.kl_target is None:",
        "if True:",
    ),
    unread(
        "objective.kl_horizon",
        ESTIMATORS,
        "horizon=objective.kl_horizon,",
        "horizon=10_000,",
    ),
    unread("objective.score_clip", ESTIMATORS, "clip = objective.score_clip", "clip = 5.0"),
    unread(
        "objective.missing_eos_penalty",
        ESTIMATORS,
        "penalty=objective.missing_eos_penalty,",
        "penalty=1.0,",
    ),
    unread(
        "objective.kl_in",
        PPO,
        'price = self.kl_coef if self.objective.kl_in == "reward" else 0.0',
        "price = self.kl_coef",
    ),
    unread(
        "objective.kl_in, where the loss is concerned,",
        PPO,
        'kl_coef=self.kl_coef if self.objective.kl_in == "loss" else 0.0,',
        "kl_coef=0.0,",
    ),
    unread(
        "objective.ensemble",
        COLLECT,
        "combination=module.objective.ensemble,",
        'combination="mean",',
    ),
    unread(
        "objective.spread_coef",
        COLLECT,
        "spread_coef=module.objective.spread_coef,",
        "spread_coef=0.0,",
    ),
    unread("objective.scale_rewards", PPO, "if self.objective.scale_rewards:", "if False:"),
    # -- what is learnt ------------------------------------------------------------------------
    unread(
        "updates.advantage",
        ESTIMATORS,
        'if settings.advantage == "gae":',
        "if True:",
    ),
    unread(
        "updates.advantage, where rloo is meant,",
        ESTIMATORS,
        'if settings.advantage == "rloo":',
        "if False:",
    ),
    unread(
        "updates.advantage, where dr_grpo is meant,",
        ESTIMATORS,
        'scale_by_std=settings.advantage == "grpo")',
        "scale_by_std=True)",
    ),
    unread(
        "updates.advantage, where the critic is loaded,",
        PPO,
        'critic="value" in self.trained_roles,',
        "critic=True,",
    ),
    unread(
        "updates.advantage, where the critic is trained,",
        UPDATE,
        'if settings.advantage == "gae":',
        "if True:",
    ),
    unread(
        "updates.gamma",
        ESTIMATORS,
        "gamma=settings.gamma, gae_lambda=settings.gae_lambda",
        "gamma=1.0, gae_lambda=settings.gae_lambda",
    ),
    unread(
        "updates.gae_lambda",
        ESTIMATORS,
        "gamma=settings.gamma, gae_lambda=settings.gae_lambda",
        "gamma=settings.gamma, gae_lambda=0.95",
    ),
    unread(
        "updates.value_gae_lambda",
        ESTIMATORS,
        "if settings.value_gae_lambda is not None:",
        "if False:",
    ),
    unread("updates.learn_from_cut", ESTIMATORS, "if settings.learn_from_cut:", "if True:"),
    # -- the losses ----------------------------------------------------------------------------
    unread("updates.clip_range", UPDATE, "clip_range=settings.clip_range,", "clip_range=0.2,"),
    unread(
        "updates.clip_range_high",
        UPDATE,
        "clip_range_high=settings.clip_range_high,",
        "clip_range_high=None,",
    ),
    unread("updates.dual_clip", UPDATE, "dual_clip=settings.dual_clip,", "dual_clip=None,"),
    unread(
        "updates.loss_aggregation",
        UPDATE,
        "counts.weights(micro.learnt, settings.loss_aggregation)",
        'counts.weights(micro.learnt, "token")',
    ),
    unread(
        "updates.entropy_coef",
        UPDATE,
        "- settings.entropy_coef * entropy",
        "- 0.0 * entropy",
    ),
    unread(
        "updates.value_clip_range",
        UPDATE,
        "clip_range=settings.value_clip_range,",
        "clip_range=0.2,",
    ),
    unread(
        "updates.value_coef",
        UPDATE,
        "backward(settings.value_coef * value_loss)",
        "backward(0.1 * value_loss)",
    ),
    # -- the steps -----------------------------------------------------------------------------
    unread("updates.ppo_epochs", COLLECT, "epochs=module.update_settings.ppo_epochs,", "epochs=2,"),
    unread(
        "updates.minibatch_size",
        COLLECT,
        "minibatch_size=module.update_settings.minibatch_size,",
        "minibatch_size=len(lengths),",
    ),
    unread("updates.target_kl", PPO, "if settings.target_kl is not None and", "if False and"),
    unread(
        "updates.learning_rate",
        PPO,
        '"policy": settings.learning_rate,',
        '"policy": 2e-5,',
    ),
    unread(
        "updates.value_learning_rate",
        PPO,
        '"value": settings.value_learning_rate}',
        '"value": settings.learning_rate}',
    ),
    unread(
        "updates.value_warmup_iterations",
        PPO,
        "trained=self.iteration >= warmup,",
        "trained=True,",
    ),
    unread(
        "updates.warmup_iterations",
        PPO,
        "warmup_steps=settings.warmup_iterations,",
        "warmup_steps=0,",
    ),
    unread(
        "updates.max_grad_norm",
        PPO,
        "max_grad_norm=settings.max_grad_norm)",
        "max_grad_norm=1.0)",
    ),
    unread("updates.eps", PPO, "eps=settings.eps,", "eps=1e-5,"),
    unread(
        "what the checkpoint says of kl_coef",
        PPO,
        'self.kl_coef = checkpoint["kl_coef"]',
        "self.kl_coef = self.objective.kl_coef",
    ),
    # -- the loss of the reward model ------------------------------------------------------------
    unread(
        "reward.margin_coef",
        REWARD_UPDATE,
        "margin=None if owed is None else self.margin_coef * owed.to(chosen),",
        "margin=None,",
    ),
    unread(
        "reward.margin_coef, where its size is concerned,",
        REWARD_UPDATE,
        "self.margin_coef * owed.to(chosen)",
        "owed.to(chosen)",
    ),
    unread(
        "reward.soft_labels",
        REWARD_UPDATE,
        "preference = batch.preference if self.soft_labels else None",
        "preference = None",
    ),
    unread(
        "reward.soft_labels, where it is off,",
        REWARD_UPDATE,
        "preference = batch.preference if self.soft_labels else None",
        "preference = batch.preference",
    ),
    unread(
        "reward.label_smoothing",
        REWARD_UPDATE,
        "label_smoothing=self.label_smoothing,",
        "label_smoothing=0.0,",
    ),
    unread(
        "reward.centering_coef",
        REWARD_UPDATE,
        "centering_coef=self.centering_coef,",
        "centering_coef=0.01,",
    ),
    unread(
        "the weight of a pair",
        REWARD_UPDATE,
        "weights=None if batch.weight is None else batch.weight.to(chosen),",
        "weights=None,",
    ),
]
