"""What a config may set of each stage; the docstrings are the command line's help."""

from dataclasses import dataclass
from math import inf
from typing import Literal

from rlhf_forge.functional.ensembles import Combination
from rlhf_forge.modules.optimisation import Schedule

Advantage = Literal["gae", "rloo", "grpo", "dr_grpo"]
Aggregation = Literal["token", "sequence", "constant"]
# Tokens of one forward and backward; auto: what the GPU has room for, found before the first step.
MicroBatch = int | Literal["auto"]
UNTIL_FOUND = 8192


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW without weight decay, and its schedule.

    Args:
        learning_rate: At the peak. LoRA wants 1e-5 to 5e-4 in PPO, about 2e-4 in SFT.
        schedule: How it falls from there to the last step.
        warmup_steps: Steps over which it rises from 0.
        max_grad_norm: Gradients longer than this are scaled down to it.
        eps: Adam's; 1e-5 because LoRA's second moments are tiny.
    """

    learning_rate: float = 2e-4
    schedule: Schedule = "linear"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        require_above_zero(learning_rate=self.learning_rate, eps=self.eps)
        require(self.warmup_steps >= 0, "warmup_steps", "0 or more", self.warmup_steps)
        require(self.max_grad_norm > 0, "max_grad_norm", "above 0", self.max_grad_norm)


@dataclass(frozen=True)
class RolloutSettings:
    """How responses are sampled during PPO.

    Args:
        max_new_tokens: A response is cut here.
        temperature: Of sampling, and of every log-probability.
        max_rows: Rows generated at once: more is faster and needs more memory.
        responses_per_prompt: Drawn for each prompt; all estimators but gae compare them.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    max_rows: int = 64
    responses_per_prompt: int = 1

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "max_new_tokens", "1 or more", self.max_new_tokens)
        require_above_zero(temperature=self.temperature)
        require_positive(max_rows=self.max_rows, responses_per_prompt=self.responses_per_prompt)


@dataclass(frozen=True)
class ObjectiveSettings:
    """What PPO is rewarded for: clipped score, missing-EOS rule, KL penalty.

    Args:
        kl_coef: Price of one nat of KL from the reference, in score units.
        kl_target: Steer kl_coef so that a response's KL is about this many nats; none: fixed.
        kl_horizon: Responses over which the steering takes effect.
        score_clip: Scores are clipped to plus or minus this.
        missing_eos_penalty: A response cut by the length limit scores minus this.
        kl_in: Where the price is paid: reward (k1, token by token), or loss (k2 beside the
            policy's).
        scale_rewards: Divide each rollout's token rewards by their standard deviation.
        ensemble: Score of an ensemble of reward models: mean, or the lowest of its members'.
        spread_coef: With mean, the members' standard deviation costs this many times itself.
    """

    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_horizon: int = 10_000
    score_clip: float = 5.0
    missing_eos_penalty: float = 1.0
    kl_in: Literal["reward", "loss"] = "reward"
    scale_rewards: bool = False
    ensemble: Combination = "mean"
    spread_coef: float = 0.0

    def __post_init__(self) -> None:
        if self.ensemble == "min":
            require(self.spread_coef == 0, "spread_coef", "0 with ensemble: min", self.spread_coef)
        for name in ("kl_coef", "missing_eos_penalty", "spread_coef"):
            got = getattr(self, name)
            require(0 <= got < inf, name, "0 or more and finite", got)
        if self.kl_target is not None:
            require_above_zero(kl_target=self.kl_target)
        require(self.kl_horizon > 0, "kl_horizon", "above 0", self.kl_horizon)
        require(self.score_clip > 0, "score_clip", "above 0", self.score_clip)


@dataclass(frozen=True)
class UpdateSettings:
    """How PPO learns from a rollout.

    Args:
        advantage: gae (with a critic), or against the other responses to the prompt: rloo, grpo,
            dr_grpo. Those three load no critic, and what is said of it below is not used.
        ppo_epochs: Passes over each rollout.
        minibatch_size: Responses of one optimiser step; divides the rollout.
        micro_batch_tokens: Padded tokens of one forward and backward: the memory knob; auto: as
            many as the GPU has room for.
        gamma: Discount per token.
        gae_lambda: From 0 (one step) to 1 (Monte Carlo).
        value_gae_lambda: Of the critic's targets; none: gae_lambda.
        clip_range: The ratio's gain ends at 1 plus or minus this.
        clip_range_high: How far above 1 instead (clip-higher); none: clip_range.
        dual_clip: A token with a negative advantage costs at most this many times it; none: no
            limit.
        loss_aggregation: token (mean over all tokens of the step), sequence (mean over responses of
            each one's mean), constant (sum over responses / max_new_tokens).
        entropy_coef: Reward for each nat of entropy.
        learn_from_cut: Whether responses cut by the length limit teach anything.
        value_clip_range: The critic moves at most this far from its old estimate, score units.
        value_coef: Weight of the critic's loss.
        target_kl: Leave a rollout once new and old policy differ by more nats a token; none: no.
        learning_rate: Of the policy.
        value_learning_rate: Of the critic.
        value_warmup_iterations: First iterations, in which only the critic learns.
        warmup_iterations: Iterations over which both rise from 0; then they fall linearly to 0.
        max_grad_norm: Policy and critic are each scaled down to it.
        eps: Adam's.
    """

    advantage: Advantage = "gae"
    ppo_epochs: int = 2
    minibatch_size: int = 32
    micro_batch_tokens: MicroBatch = 8192
    gamma: float = 1.0
    gae_lambda: float = 0.95
    value_gae_lambda: float | None = None
    clip_range: float = 0.2
    clip_range_high: float | None = None
    dual_clip: float | None = None
    loss_aggregation: Aggregation = "token"
    entropy_coef: float = 0.0
    learn_from_cut: bool = True
    value_clip_range: float = 0.2
    value_coef: float = 0.1
    target_kl: float | None = 0.02
    learning_rate: float = 2e-5
    value_learning_rate: float = 5e-5
    value_warmup_iterations: int = 0
    warmup_iterations: int = 0
    max_grad_norm: float = 1.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("ppo_epochs", "minibatch_size"):
            require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        at_first(self.micro_batch_tokens)
        for name in ("learning_rate", "value_learning_rate", "eps"):
            require_above_zero(**{name: getattr(self, name)})
        for name in ("clip_range", "value_clip_range", "max_grad_norm"):
            require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        for name in (
            "warmup_iterations",
            "value_warmup_iterations",
            "value_coef",
            "entropy_coef",
        ):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        for name in ("gamma", "gae_lambda", "value_gae_lambda"):
            got = getattr(self, name)
            require(got is None or 0 <= got <= 1, name, "in [0, 1]", got)
        for name, bound in (("target_kl", 0), ("clip_range_high", 0), ("dual_clip", 1)):
            got = getattr(self, name)
            require(got is None or got > bound, name, f"above {bound}", got)

    @property
    def tokens_at_first(self) -> int:
        """What ``micro_batch_tokens`` comes to at the start; see `at_first`."""
        return at_first(self.micro_batch_tokens)


def require_positive(**settings: int) -> None:
    """Refuse counts below 1.

    Raises:
        ValueError: Naming the first.
    """
    for name, got in settings.items():
        require(got >= 1, name, "1 or more", got)


def at_first(micro_batch_tokens: MicroBatch) -> int:
    """The size that a module starts with; where it is to be found, one that most machines have.

    Raises:
        ValueError: If it is below 1.
    """
    if micro_batch_tokens == "auto":
        return UNTIL_FOUND
    require_positive(micro_batch_tokens=micro_batch_tokens)
    return micro_batch_tokens


def require_a_baseline(advantage: Advantage, responses_per_prompt: int) -> None:
    """Refuse an estimator without critic that has no other responses to compare with.

    Raises:
        ValueError: All its advantages would be 0.
    """
    require(
        advantage == "gae" or responses_per_prompt > 1,
        f"rollout.responses_per_prompt with updates.advantage {advantage}",
        "2 or more",
        responses_per_prompt,
    )


def require_above_zero(**settings: float) -> None:
    """Refuse numbers that are not positive, or not finite.

    Raises:
        ValueError: Naming the first.
    """
    for name, got in settings.items():
        require(0 < got < inf, name, "above 0 and finite", got)


def require(holds: bool, name: str, rule: str, got: object) -> None:
    """Refuse a value unless the rule holds for it.

    Raises:
        ValueError: Naming the setting, the rule and the value.
    """
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {got}")
