"""PPO with a learned critic and a reward model, all four roles on one frozen base.

`PPOModule.training_step` is the algorithm; read it beside Ziegler et al. 2019,
https://arxiv.org/abs/1909.08593, and Schulman et al. 2017, https://arxiv.org/abs/1707.06347.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from typing_extensions import override

from rlhf_forge.artefact import Expected
from rlhf_forge.backbone.adapter_files import AdapterWeights
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.scoring import values_before
from rlhf_forge.data.collate import PromptBatch
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.tokenize import Example
from rlhf_forge.functional.advantages import (
    explained_variance,
    generalized_advantage_estimation,
    missing_eos_scores,
    token_rewards,
)
from rlhf_forge.functional.kl import adapt_kl_coef, kl_estimate
from rlhf_forge.functional.losses import clipped_policy_loss, clipped_value_loss
from rlhf_forge.functional.masking import masked_mean, whiten
from rlhf_forge.generation.rows import join
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.checkpoint_state import keep_trainable, require_same_names
from rlhf_forge.modules.checks import require_unit_ratio, require_zero_kl
from rlhf_forge.modules.optimisation import adamw, apply_gradients, step_scheduler
from rlhf_forge.modules.responses import HELD_OUT, held_out_answers, respond, rows_of
from rlhf_forge.modules.roles import (
    data_of,
    expected_of,
    open_backbone,
    read_parent,
    template_of,
)
from rlhf_forge.modules.settings import ObjectiveSettings, RolloutSettings, UpdateSettings
from rlhf_forge.rollout import Experience, Plan, Rollout, minibatches, plan_updates, score_rollout


class PPOModule(LightningModule):
    """PPO of the role ``policy`` against ``reward``, held near ``reference``.

    One batch of prompts is one iteration: sample, score, estimate, update. The reference is the
    frozen SFT adapter, the policy starts as its copy, the critic (``value``) as a copy of the
    reward model with its head.

    Args:
        backbone: The frozen base and the adapters' shape.
        sft: Artefact of the SFT stage; none: <run>/sft/artefact.
        reward: Artefact of the reward stage; none: <run>/reward/artefact.
        reference: sft, or base where one starts from an instruct model without an SFT stage.
        total_iterations: Rollouts of the run.
        rollout: How responses are sampled.
        objective: What is rewarded: score, missing-EOS rule, KL penalty.
        updates: How the policy learns from a rollout.
        seed: Of sampling and shuffling.
    """

    stage = "ppo"
    role = "policy"
    data_kind = "prompts"
    predicts = "prompts"

    def __init__(  # noqa: PLR0913 - an argument is a config key
        self,
        backbone: BackboneConfig,
        sft: str | None = None,
        reward: str | None = None,
        reference: Literal["sft", "base"] = "sft",
        total_iterations: int = 200,
        rollout: RolloutSettings = RolloutSettings(),
        objective: ObjectiveSettings = ObjectiveSettings(),
        updates: UpdateSettings = UpdateSettings(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.backbone_config = backbone
        self.sft, self.reward, self.reference = sft, reward, reference
        self.total_iterations = total_iterations
        self.rollout_settings = rollout
        self.objective = objective
        self.update_settings = updates
        self.seed = seed
        self.sampling = Sampling(
            temperature=rollout.temperature, max_new_tokens=rollout.max_new_tokens
        )
        self.max_rows = rollout.max_rows
        self.kl_coef = objective.kl_coef
        self.seconds: dict[str, float] = {}
        self.parents: dict[str, str] = {}
        self.backbone: Backbone
        self.expected: Expected
        self.template: ChatTemplate

    @property
    def held_out(self) -> Sequence[Example]:
        """The examples that the module is not trained on."""
        return data_of(self).held_out

    @property
    def eos_ids(self) -> frozenset[int]:
        """What ends a response."""
        return self.template.eos_ids

    # -- the algorithm -------------------------------------------------------------------------

    @override
    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        settings = self.update_settings
        with self.timed("rollout"):
            rollout, plan = self.collect(batch)
        if self.iteration == 0:
            require_zero_kl(rollout)

        kl = kl_estimate(rollout.log_probs, rollout.ref_log_probs, estimator="k1")
        rewards = token_rewards(self.shaped_scores(rollout), kl, rollout.mask, kl_coef=self.kl_coef)
        advantages, returns = generalized_advantage_estimation(
            rewards,
            rollout.values,
            rollout.mask,
            gamma=settings.gamma,
            gae_lambda=settings.gae_lambda,
        )
        experience = Experience(
            tokens=rollout.tokens,
            mask=rollout.mask,
            old_log_probs=rollout.log_probs,
            old_values=rollout.values,
            advantages=whiten(advantages, rollout.mask),
            returns=returns,
        )
        with self.timed("update"):
            updates = self.learn(experience, plan)
        step_scheduler(self)
        self.log_iteration(rollout, rewards, returns, updates)
        self.steer_kl_coef(kl, rollout)

    def collect(self, batch: PromptBatch) -> tuple[Rollout, Plan]:
        """Sample a response to every prompt and score it under every role.

        The plan of the updates is drawn first: what is scored on the micro-batches of the first
        epoch gives the first update a ratio of exactly 1.
        """
        prompts = rows_of(batch)
        with self.timed("generate"):
            responses = respond(self, batch, iteration=self.iteration)
        tokens, mask = join(prompts, responses, self.device)
        finished = torch.tensor([r.finished for r in responses], device=self.device)
        plan = plan_updates(
            [len(p) + len(r.tokens) for p, r in zip(prompts, responses, strict=True)],
            epochs=self.update_settings.ppo_epochs,
            minibatch_size=self.update_settings.minibatch_size,
            max_tokens=self.update_settings.micro_batch_tokens,
            seed=self.seed,
            iteration=self.iteration,
        )
        with self.timed("score"):
            rollout = score_rollout(
                self.backbone,
                tokens,
                mask,
                finished,
                batches=[rows for minibatch in plan[0] for rows in minibatch],
                temperature=self.sampling.temperature,
            )
        return rollout, plan

    def shaped_scores(self, rollout: Rollout) -> Tensor:
        """Scores, clipped, and then replaced where the length limit cut the response.

        In this order: clipping after the rule could lift a penalised row.
        """
        clip = self.objective.score_clip
        return missing_eos_scores(
            rollout.scores.clamp(-clip, clip),
            rollout.finished,
            penalty=self.objective.missing_eos_penalty,
        )

    def learn(self, experience: Experience, plan: Plan) -> list[dict[str, float]]:
        """All optimiser steps of one rollout; stops where the policy has moved too far."""
        updates = []
        for number, minibatch in enumerate(minibatches(experience, plan)):
            stats = self.accumulate(minibatch)
            if number == 0:
                require_unit_ratio(stats["ratio_max"], stats["approx_kl"])
            target = self.update_settings.target_kl
            if target is not None and stats["approx_kl"] > target:
                self.optimizers().zero_grad(set_to_none=True)
                break
            stats |= apply_gradients(
                self,
                {role: self.backbone.parameters_of(role) for role in ("policy", "value")},
                max_grad_norm=self.update_settings.max_grad_norm,
            )
            updates.append(stats)
        return updates

    def accumulate(self, minibatch: list[Experience]) -> dict[str, float]:
        """Gradients of one optimiser step over its micro-batches.

        Every loss is divided by the token count of the whole step, so how it is cut into
        micro-batches changes nothing but memory.
        """
        num_tokens = int(sum(int(micro.mask.sum()) for micro in minibatch))
        stats: dict[str, Tensor] = {}
        for micro in minibatch:
            share = float(micro.mask.sum()) / max(num_tokens, 1)
            for name, value in self.backward_micro_batch(micro, num_tokens).items():
                if name == "ratio_max":
                    stats[name] = torch.maximum(stats.get(name, value), value)
                else:
                    stats[name] = stats.get(name, torch.zeros_like(value)) + share * value
        return {name: value.item() for name, value in stats.items()}

    def backward_micro_batch(self, micro: Experience, num_tokens: int) -> dict[str, Tensor]:
        """Backward of both losses; statistics are means over the micro-batch's tokens."""
        settings = self.update_settings
        with self.backbone.using("policy"):
            log_probs, _ = self.backbone.log_probs(
                micro.tokens, micro.mask, temperature=self.sampling.temperature
            )
        policy_loss, policy = clipped_policy_loss(
            log_probs,
            micro.old_log_probs,
            micro.advantages,
            micro.mask,
            clip_range=settings.clip_range,
            num_tokens=num_tokens,
        )
        self.manual_backward(policy_loss)
        with self.backbone.using("value"):
            values = values_before(self.backbone.scalars(micro.tokens), micro.mask)
        value_loss, value = clipped_value_loss(
            values,
            micro.old_values,
            micro.returns,
            micro.mask,
            clip_range=settings.value_clip_range,
            num_tokens=num_tokens,
        )
        self.manual_backward(settings.value_coef * value_loss)
        return {
            "approx_kl": policy.approx_kl,
            "ratio_max": policy.ratio_max,
            "clip_fraction": policy.clip_fraction,
            "value_clip_fraction": value.clip_fraction,
        }

    def steer_kl_coef(self, kl: Tensor, rollout: Rollout) -> None:
        """The adaptive penalty, if the objective has a target."""
        if self.objective.kl_target is None:
            return
        self.kl_coef = adapt_kl_coef(
            self.kl_coef,
            float(response_sum(kl, rollout.mask).mean()),
            target=self.objective.kl_target,
            horizon=self.objective.kl_horizon,
            num_samples=len(rollout.scores),
        )

    # -- Lightning -----------------------------------------------------------------------------

    @override
    def configure_model(self) -> None:
        if hasattr(self, "backbone"):
            return
        self.template = template_of(self)
        self.expected = expected_of(self.backbone_config, self.template)
        reward_manifest, reward = read_parent(str(self.reward), self.expected, stage="reward")
        self.parents = {"reward": reward_manifest.fingerprint}
        self.backbone = open_backbone(self.backbone_config, self.trainer.strategy.root_device)
        policy = self._reference_weights()
        self.backbone.add_role("policy", policy, trainable=True)
        self.backbone.add_role("reward", reward, trainable=False)
        self.backbone.add_role("value", reward, trainable=True)

    def _reference_weights(self) -> AdapterWeights:
        """Add the reference role; what the policy starts from."""
        if self.reference == "base":
            self.backbone.add_bare_role("reference")
            return self.backbone.fresh_weights(seed=self.seed)
        manifest, sft = read_parent(str(self.sft), self.expected, stage="sft")
        self.parents["sft"] = manifest.fingerprint
        self.backbone.add_role("reference", sft, trainable=False)
        return replace(sft, head=None)

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.update_settings
        return adamw(
            {
                "policy": (self.backbone.parameters_of("policy"), settings.learning_rate),
                "value": (self.backbone.parameters_of("value"), settings.value_learning_rate),
            },
            schedule="linear",
            warmup_steps=settings.warmup_iterations,
            total_steps=self.total_iterations,
            eps=settings.eps,
        )

    @override
    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._log_held_out("val", batch)

    @override
    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._log_held_out("test", batch)

    @override
    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        return held_out_answers(self, batch)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        keep_trainable(checkpoint, self.backbone)
        checkpoint["kl_coef"] = self.kl_coef

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        require_same_names(checkpoint, self.backbone)
        self.kl_coef = checkpoint["kl_coef"]

    @property
    def iteration(self) -> int:
        """Number of the running iteration, from 0, across resumes."""
        return self.trainer.fit_loop.epoch_loop.total_batch_idx

    # -- metrics -------------------------------------------------------------------------------

    def log_iteration(
        self,
        rollout: Rollout,
        rewards: Tensor,
        returns: Tensor,
        updates: list[dict[str, float]],
    ) -> None:
        """Everything an iteration reports; `docs/metrics.md` says what each means."""
        metrics = {
            **objective_metrics(rollout),
            "objective/reward": response_sum(rewards, rollout.mask).mean(),
            "objective/kl_coef": self.kl_coef,
            "policy/entropy": masked_mean(rollout.entropy, rollout.mask),
            "value/explained_variance": explained_variance(rollout.values, returns, rollout.mask),
            "policy/updates": float(len(updates)),
        }
        for name, tag in UPDATE_TAGS.items():
            values = [update[name] for update in updates]
            if values:
                metrics[tag] = max(values) if name == "ratio_max" else sum(values) / len(values)
        metrics |= {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}
        self.log_dict({name: float(value) for name, value in metrics.items()})
        for shown in ("objective/score", "objective/kl"):
            self.log(shown.replace("objective/", ""), metrics[shown], prog_bar=True, logger=False)

    def _log_held_out(self, name: str, batch: PromptBatch) -> None:
        prompts = rows_of(batch)
        responses = respond(self, batch, iteration=HELD_OUT)
        tokens, mask = join(prompts, responses, self.device)
        finished = torch.tensor([r.finished for r in responses], device=self.device)
        rollout = score_rollout(
            self.backbone,
            tokens,
            mask,
            finished,
            batches=[[row] for row in range(len(prompts))],
            temperature=self.sampling.temperature,
        )
        metrics = objective_metrics(rollout)
        shown = {f"{name}/{tag.split('/')[1]}": value for tag, value in metrics.items()}
        self.log_dict(shown, batch_size=len(prompts))

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Seconds of the block, for the time/* metrics."""
        start = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - start


UPDATE_TAGS = {
    "approx_kl": "policy/approx_kl",
    "clip_fraction": "policy/clip_fraction",
    "ratio_max": "policy/ratio_max",
    "value_clip_fraction": "value/clip_fraction",
    "policy": "policy/grad_norm",
    "value": "value/grad_norm",
}


def objective_metrics(rollout: Rollout) -> dict[str, Tensor]:
    """Score, KL and shape of the responses: scores normalised, KL in nats per response."""
    kl = kl_estimate(rollout.log_probs, rollout.ref_log_probs, estimator="k1")
    return {
        "objective/score": rollout.scores.mean(),
        "objective/score_std": rollout.scores.std(correction=0),
        "objective/kl": response_sum(kl, rollout.mask).mean(),
        "rollout/eos_fraction": rollout.finished.float().mean(),
        "rollout/length": rollout.mask.sum(-1).float().mean(),
    }


def response_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over each response's tokens, [batch]."""
    return torch.where(mask, values, 0.0).sum(-1)
