"""PPO with a learned critic and a reward model, all four roles on one frozen base.

`PPOModule.training_step` is the algorithm; read it beside Ziegler et al. 2019,
https://arxiv.org/abs/1909.08593, and Schulman et al. 2017, https://arxiv.org/abs/1707.06347.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from typing_extensions import override

from rlhf_forge.artefact import Expected
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.data.collate import PromptBatch
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.tokenize import Example
from rlhf_forge.evaluation.rewards import Reward
from rlhf_forge.functional.advantages import token_rewards
from rlhf_forge.functional.kl import kl_estimate
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.checkpoint_state import keep_trainable, require_same_tensors
from rlhf_forge.modules.checks import (
    require_sound_start,
    require_unit_ratio,
    warn_if_cutting_pays,
)
from rlhf_forge.modules.memory import Cuts, keep_sizes, restore_sizes, within_memory
from rlhf_forge.modules.optimisation import (
    Step,
    adamw,
    apply_gradients,
    drop_gradients,
    step_scheduler,
)
from rlhf_forge.modules.ppo_estimators import (
    estimate_advantages,
    learnt_tokens,
    scaled,
    shaped_scores,
    steered_kl_coef,
)
from rlhf_forge.modules.ppo_metrics import (
    critic_metrics,
    iteration_metrics,
    objective_metrics,
    update_metrics,
)
from rlhf_forge.modules.ppo_rollout import collect, collect_held_out
from rlhf_forge.modules.ppo_update import Counts, PolicyTerms, UpdateStats, accumulate
from rlhf_forge.modules.responses import held_out_answers
from rlhf_forge.modules.roles import add_ppo_roles, data_of, expected_of, open_backbone, template_of
from rlhf_forge.modules.settings import (
    ObjectiveSettings,
    RolloutSettings,
    UpdateSettings,
    require_a_baseline,
    require_above_zero,
    require_positive,
)
from rlhf_forge.reward_terms import RewardTerm, terms_of
from rlhf_forge.rollout import Experience, Plan, RowTokens, fitting


class PPOModule(LightningModule):
    """PPO of the role ``policy`` against a reward, held near ``reference``.

    One batch of prompts is one iteration: sample, score, estimate, update. The reference is the
    frozen SFT adapter, the policy starts as its copy, the critic (``value``) as a copy of the
    reward model with its head. ``updates.advantage`` takes another baseline than the critic.

    A function of the reward is called once an iteration as f(prompts, responses, records): the
    conversations, texts, and rows of the data with ``finished`` added. It gives a list with a score
    for each response, or a dict with ``score``; scores are taken in its units.

    Args:
        backbone: The frozen base and the adapters' shape.
        sft: Artefact of the SFT stage; none: <run>/sft/artefact.
        reward: Artefact of the reward stage; none: <run>/reward/artefact; or module:function; or a
            list of terms {source, weight} that are added, at most one of them an artefact. With
            functions only the critic knows nothing at first: set updates.value_warmup_iterations.
        reward_timeout: Seconds that a function of reward may take for one iteration.
        accept_bad_card: Start though the report card of the reward model is bad.
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
        reward: list[RewardTerm] | str | None = None,
        reward_timeout: float = 60.0,
        accept_bad_card: bool = False,
        reference: Literal["sft", "base"] = "sft",
        total_iterations: int = 200,
        rollout: RolloutSettings = RolloutSettings(),
        objective: ObjectiveSettings = ObjectiveSettings(),
        updates: UpdateSettings = UpdateSettings(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_positive(total_iterations=total_iterations)
        require_above_zero(reward_timeout=reward_timeout)
        require_a_baseline(updates.advantage, rollout.responses_per_prompt)
        self.automatic_optimization = self.strict_loading = False
        self.backbone_config = backbone
        self.sft, self.reference = sft, reference
        self.reward = Reward(terms_of(reward), reward_timeout)
        self.accept_bad_card = accept_bad_card
        self.total_iterations, self.seed = total_iterations, seed
        self.objective, self.update_settings = objective, updates
        self.sampling = Sampling(rollout.temperature, max_new_tokens=rollout.max_new_tokens)
        self.max_rows, self.micro_batch_tokens = rollout.max_rows, updates.tokens_at_first
        self.responses_per_prompt = rollout.responses_per_prompt
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

    @override
    def training_step(self, batch: PromptBatch, batch_idx: int) -> dict[str, list[Step]]:
        settings = self.update_settings
        with self.timed("rollout"):
            rollout, plan = collect(self, batch)
        if self.iteration == 0:
            require_sound_start(self.backbone, rollout, batch.tokens[0][batch.mask[0]])
        warn_if_cutting_pays(
            rollout.scores, rollout.finished, penalty=self.objective.missing_eos_penalty
        )

        kl = kl_estimate(rollout.log_probs, rollout.ref_log_probs, estimator="k1")
        price = self.kl_coef if self.objective.kl_in == "reward" else 0.0
        rewards = token_rewards(
            shaped_scores(rollout, self.objective), kl, rollout.mask, kl_coef=price
        )
        if self.objective.scale_rewards:
            rewards = scaled(rewards, rollout.mask)
        advantages, returns = estimate_advantages(
            rollout, rewards, settings, responses_per_prompt=self.responses_per_prompt
        )
        experience = Experience.of(rollout, learnt_tokens(rollout, settings), advantages, returns)
        with self.timed("update"):
            updates = self.learn(experience, plan)
        step_scheduler(self)
        metrics = iteration_metrics(rollout, rewards) | update_metrics(updates)
        if "value" in self.trained_roles:
            metrics |= critic_metrics(experience, updates)
        times = {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}
        self.log_dict(metrics | {"objective/kl_coef": self.kl_coef} | times)
        self.log("score", metrics["objective/score"], prog_bar=True, logger=False)
        self.log("kl", metrics["objective/kl"], prog_bar=True, logger=False)
        self.kl_coef = steered_kl_coef(self.kl_coef, kl, rollout, self.objective)
        return {"steps": [Step(u.grad_norms, u.taken) for u in updates if u.grad_norms]}

    def learn(self, experience: Experience, plan: Plan) -> list[UpdateStats]:
        """All optimiser steps of one rollout; stops where the policy has moved too far.

        Returns:
            Statistics of every step, that at which it stopped included.
        """
        settings = self.update_settings
        warmup = settings.value_warmup_iterations if "value" in self.trained_roles else 0
        terms = PolicyTerms(
            temperature=self.sampling.temperature,
            max_new_tokens=self.sampling.max_new_tokens,
            kl_coef=self.kl_coef if self.objective.kl_in == "loss" else 0.0,
            trained=self.iteration >= warmup,
        )
        row_tokens = RowTokens.of(experience.tokens, experience.mask, pads=self.backbone.pads)
        scored_by = self.micro_batch_tokens
        updates: list[UpdateStats] = []
        for minibatch in chain.from_iterable(plan):
            learnt = experience.learnt[list(chain.from_iterable(minibatch))]
            counts = Counts.of([learnt], terms.max_new_tokens)
            stats = within_memory(
                self,
                partial(self._cuts, minibatch, row_tokens),
                partial(self._accumulate, experience, terms, counts),
            ).put_together()
            if not updates:
                same = self.micro_batch_tokens == scored_by
                require_unit_ratio(stats.ratio_max, stats.approx_kl, same_cuts=same)
            if settings.target_kl is not None and stats.approx_kl > settings.target_kl:
                drop_gradients(self)
                updates.append(stats)
                break
            groups = {role: self.backbone.parameters_of(role) for role in self.trained_roles}
            step = apply_gradients(self, groups, max_grad_norm=settings.max_grad_norm)
            updates.append(replace(stats, grad_norms=step.norms, taken=step.taken))
        return updates

    @override
    def configure_model(self) -> None:
        if hasattr(self, "backbone"):
            return
        self.template = template_of(self)
        self.expected = expected_of(self.backbone_config, self.template)
        self.backbone = open_backbone(self.backbone_config, self.trainer.strategy.root_device)
        self.parents = add_ppo_roles(
            self.backbone,
            self.expected,
            precision=self.backbone_config.precision,
            sft=str(self.sft) if self.reference == "sft" else None,
            reward=self.reward.artefact,
            reward_weight=self.reward.model_weight,
            critic="value" in self.trained_roles,
            seed=self.seed,
        )

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.update_settings
        rates = {"policy": settings.learning_rate, "value": settings.value_learning_rate}
        return adamw(
            {role: (self.backbone.parameters_of(role), rates[role]) for role in self.trained_roles},
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
        keep_sizes(checkpoint, self)
        checkpoint["kl_coef"] = self.kl_coef

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        require_same_tensors(checkpoint, self.backbone)
        restore_sizes(checkpoint, self)
        self.kl_coef = checkpoint["kl_coef"]

    @property
    def trained_roles(self) -> tuple[str, ...]:
        """The policy, and the critic if the estimator has one."""
        return ("policy", "value") if self.update_settings.advantage == "gae" else ("policy",)

    @property
    def iteration(self) -> int:
        """Number of the running iteration, from 0, across resumes."""
        return self.trainer.fit_loop.epoch_loop.total_batch_idx

    def _cuts(self, minibatch: list[list[int]], row_tokens: RowTokens) -> list[list[int]]:
        return fitting(minibatch, row_tokens, max_tokens=self.micro_batch_tokens)

    def _accumulate(
        self, experience: Experience, terms: PolicyTerms, counts: Counts, cuts: Cuts
    ) -> UpdateStats:
        micro = [experience.rows(rows) for rows in cuts]
        settings, backward = self.update_settings, self.manual_backward
        return accumulate(self.backbone, micro, settings, terms, backward=backward, counts=counts)

    def _log_held_out(self, name: str, batch: PromptBatch) -> None:
        metrics = objective_metrics(collect_held_out(self, batch))
        shown = {f"{name}/{tag.split('/')[1]}": value for tag, value in metrics.items()}
        self.log_dict(shown, batch_size=len(batch.positions))

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Seconds of the block, for the time/* metrics."""
        start = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - start
