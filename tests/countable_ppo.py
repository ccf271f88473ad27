"""Whole iterations of PPO on the policy whose responses can be counted, in a fraction of a second.

Nothing of `PPOModule` is replaced but the score, which is read from a table.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.data.formats import FORMATS
from rlhf_forge.data.loading import Loaded
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.data.records import Prompt, user
from rlhf_forge.data.tokenize import PromptExample, Tally
from rlhf_forge.modules.memory import Cuts
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.ppo_rollout import collect
from rlhf_forge.modules.ppo_update import Counts, PolicyTerms, UpdateStats
from rlhf_forge.modules.settings import ObjectiveSettings, RolloutSettings, UpdateSettings
from rlhf_forge.rollout import Experience, Plan, Rollout
from tests import countable, tiny
from tests.countable import Size


class Prompts(PreferenceDataModule):
    """The prompts in turn, without end."""

    def __init__(self, *, batch_size: int) -> None:
        super().__init__("none", batch_size=batch_size, kind="prompts")
        prompts = countable.PROMPTS * (batch_size // len(countable.PROMPTS))
        record = Prompt(user("?"), "here", {})
        examples = [PromptExample(prompt, record) for prompt in prompts]
        self.train = Loaded("none", FORMATS[0], list(examples), Tally())
        self.held_out = []


def read_scores_from(scores: Tensor, size: Size, patch: pytest.MonkeyPatch) -> None:
    """Let the reward model give these scores, [prompts, responses]."""
    listed = countable.all_responses(size)
    table = {
        (tuple(prompt), response): score
        for prompt, row in zip(countable.PROMPTS, scores.tolist(), strict=True)
        for response, score in zip(listed, row, strict=True)
    }

    def score(backbone: Backbone, tokens: Tensor, mask: Tensor, **others: Any) -> Tensor:
        return torch.tensor([table[parts] for parts in countable.parts_of(tokens, mask)])

    patch.setattr("rlhf_forge.rollout.score", score)


def module_on(
    size: Size,
    *,
    iterations: int,
    rollout: RolloutSettings,
    objective: ObjectiveSettings,
    updates: UpdateSettings,
    seed: int = 0,
) -> PPOModule:
    """A module with all its roles."""
    module = PPOModule(
        BackboneConfig("none", "fp32"),
        total_iterations=iterations,
        rollout=rollout,
        objective=objective,
        updates=updates,
        seed=seed,
    )
    module.backbone = countable.open_countable(size)
    module.template = SimpleNamespace(eos_ids=[countable.EOS])  # type: ignore[assignment]
    return module


def train(module: PPOModule, *, prompts: int) -> PPOModule:
    """All iterations, with so many prompts in each."""
    tiny.trainer(
        limit_train_batches=module.total_iterations,
        limit_val_batches=0,
    ).fit(module, datamodule=Prompts(batch_size=prompts))
    return module


@dataclass
class Seen:
    """One iteration.

    Attributes:
        rollout: What was sampled.
        experience: What was learnt from it.
        rates: Of policy and critic.
        before: Flat weights of policy and critic.
        after: The same behind the updates.
        updates: One for each step.
        terms: Of the policy's loss, for each step.
    """

    rollout: Rollout
    experience: Experience
    rates: list[float]
    before: list[Tensor]
    after: list[Tensor] = field(default_factory=list)
    updates: list[UpdateStats] = field(default_factory=list)
    terms: list[PolicyTerms] = field(default_factory=list)


def weights(module: PPOModule) -> list[Tensor]:
    return [
        torch.cat([p.detach().flatten() for p in module.backbone.parameters_of(role)])
        for role in module.trained_roles
    ]


def watch(patch: pytest.MonkeyPatch) -> list[Seen]:
    """From now on every iteration is noted."""
    seen: list[Seen] = []
    learn, accumulate = PPOModule.learn, PPOModule._accumulate

    def collected(module: PPOModule, batch: Any) -> tuple[Rollout, Plan]:
        rollout, plan = collect(module, batch)
        rates = [group["lr"] for group in module.trainer.optimizers[0].param_groups]
        empty = torch.zeros(0)
        seen.append(Seen(rollout, Experience(*[empty] * 8), rates, weights(module)))
        return rollout, plan

    def learnt(self: PPOModule, experience: Experience, plan: Plan) -> list[UpdateStats]:
        seen[-1].experience = experience
        seen[-1].updates = learn(self, experience, plan)
        seen[-1].after = weights(self)
        return seen[-1].updates

    def accumulated(
        self: PPOModule, experience: Experience, terms: PolicyTerms, counts: Counts, cuts: Cuts
    ) -> UpdateStats:
        seen[-1].terms.append(terms)
        return accumulate(self, experience, terms, counts, cuts)

    patch.setattr("rlhf_forge.modules.ppo.collect", collected)
    patch.setattr(PPOModule, "learn", learnt)
    patch.setattr(PPOModule, "_accumulate", accumulated)
    return seen
