"""Two policies on one base, the same prompts, one judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_forge.artefact import (
    Expected,
    Manifest,
    check_fits,
    read_manifest,
    reference_of,
    require_stage,
)
from rlhf_forge.backbone.adapter_files import read_adapter, reads_likelihoods
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, precision_named
from rlhf_forge.backbone.loading import content_fingerprint, load_base
from rlhf_forge.data.render import ChatTemplate, load_template
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.evaluation.judges import Judgement
from rlhf_forge.evaluation.policies import (
    Answers,
    facts_of,
    judged,
    model_scores,
    sampled_answers,
)
from rlhf_forge.evaluation.statistics import mean_of, share_of, wins_of
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.hub import base_folder

# The rivals, by role. A reward model that judges has the role reward, and reference is what it
# reads likelihoods of, whoever the rivals are.
RIVALS = ("policy", "against")
POLICY_STAGES = ("sft", "dpo", "ppo")


@dataclass(frozen=True)
class Lineup:
    """Who plays which role on which base: found and checked, no weights loaded.

    Attributes:
        base: That all share.
        template: That all share.
        adapters: Artefact folder of each role; None for the bare base.
    """

    base: BackboneConfig
    template: ChatTemplate
    adapters: dict[str, Path | None]

    def load(self, device: torch.device) -> Backbone:
        """The base on ``device`` with all roles."""
        backbone = Backbone(load_base(self.base, device), self.base.lora)
        for role, folder in self.adapters.items():
            if folder is None:
                backbone.add_bare_role(role)
            else:
                backbone.add_role(role, read_adapter(folder), trainable=False)
        return backbone


def find_lineup(policy: Path, against: Path | None, judge: Path | None) -> Lineup:
    """The policy, what it is compared with, and the reward model that judges.

    Args:
        policy: Artefact of a policy.
        against: Another; None for the bare base.
        judge: Artefact of a reward model; None if a function judges.

    Raises:
        UserError: If one is missing or of the wrong stage, or they do not share base, tokenizer
            and template, or the base here is not theirs.
    """
    manifest, template, expected = _opened(policy, *POLICY_STAGES)
    adapters: dict[str, Path | None] = {"policy": policy, "against": against}
    if against is not None:
        _require(against, expected, *POLICY_STAGES)
    if judge is not None:
        _require(judge, expected, "reward")
        adapters["reward"] = judge
        if reads_likelihoods(judge):
            near = [policy] if against is None else [policy, against]
            adapters["reference"] = reference_of(judge, near=near)
    base = BackboneConfig(manifest.base, precision_named(manifest.precision))
    return Lineup(base, template, adapters)


def find_scorer(reward: Path) -> Lineup:
    """A reward model, in the role reward, and what it reads likelihoods of.

    Args:
        reward: Artefact of the reward model.

    Raises:
        UserError: If it is missing or none, or the base here is not its own.
    """
    manifest, template, expected = _opened(reward, "reward")
    adapters: dict[str, Path | None] = {"reward": reward}
    if reads_likelihoods(reward):
        reference = reference_of(reward)
        if reference is not None:
            _require(reference, expected, "sft")
        adapters["reference"] = reference
    base = BackboneConfig(manifest.base, precision_named(manifest.precision))
    return Lineup(base, template, adapters)


def _opened(folder: Path, *stages: str) -> tuple[Manifest, ChatTemplate, Expected]:
    """The manifest of an artefact that the base here fits, its template, what others must fit."""
    manifest = read_manifest(folder)
    require_stage(manifest, folder, *stages)
    template = load_template(str(folder), "tokenizer")
    expected = Expected(
        base_fingerprint=content_fingerprint(base_folder(manifest.base)),
        tokenizer_hash=template.tokenizer_hash,
        template_hash=template.hash,
    )
    check_fits(manifest, expected, folder)
    return manifest, template, expected


def _require(folder: Path, expected: Expected, *stages: str) -> None:
    manifest = read_manifest(folder)
    require_stage(manifest, folder, *stages)
    check_fits(manifest, expected, folder)


@dataclass(frozen=True)
class Duel:
    """A policy and what it is compared with, ready to be judged.

    Attributes:
        backbone: With the roles policy and against, and reward if a model judges.
        template: Of both.
        prompts: To answer.
        sampling: Of the responses.
        seed: Of the responses.
        judge: module:function; None: the role reward judges.
    """

    backbone: Backbone
    template: ChatTemplate
    prompts: Sequence[PromptExample]
    sampling: Sampling
    seed: int
    judge: str | None

    def result(self) -> dict[str, Any]:
        """Score, accuracy if the judge tells, KL from ``against``, and so on; the win rate."""
        answers = {role: self._answers(role) for role in RIVALS}
        verdicts = {role: self._judged(given) for role, given in answers.items()}
        wins = share_of(wins_of(verdicts["policy"].scores, verdicts["against"].scores))
        return {
            "models": {role: _row(verdicts[role], answers[role]) for role in RIVALS},
            "win_rate": {"value": wins.value, "low": wins.low, "high": wins.high, "n": wins.n},
        }

    def _answers(self, role: str) -> Answers:
        return sampled_answers(
            self.backbone,
            role,
            self.prompts,
            self.template,
            self.sampling,
            seed=self.seed,
            kl_from="against",
        )

    def _judged(self, answers: Answers) -> Judgement:
        if self.judge is not None:
            return judged(self.judge, self.prompts, answers)
        scores = model_scores(self.backbone, "reward", self.prompts, answers.responses)
        return Judgement(scores, None)


def _row(verdict: Judgement, answers: Answers) -> dict[str, Any]:
    score = mean_of(verdict.scores)
    accuracy = None if verdict.correct is None else mean_of(verdict.correct).value
    return {"gold": score.value, "gold_se": score.se, "accuracy": accuracy, **facts_of(answers)}
