"""Two policies on one base, the same prompts, one judge."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from rlhf_forge.artefact import Expected, check_fits, read_manifest
from rlhf_forge.backbone.adapter_files import read_adapter
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, precision_named
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.data.loading import load_examples
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

ROLES = {"policy": "policy", "against": "reference"}


@dataclass
class Duel:
    """A policy and what it is compared with, ready to be judged.

    Attributes:
        backbone: With the roles policy and reference, and reward if a model judges.
        template: Of both.
        expected: What a reward model must fit.
        sampling: Of the responses.
        seed: Of the responses.
        prompts: To answer.
    """

    backbone: Backbone
    template: ChatTemplate
    expected: Expected
    sampling: Sampling
    seed: int
    prompts: Sequence[PromptExample] = field(default_factory=list)

    @classmethod
    def between(cls, policy: Path, against: Path, *, sampling: Sampling, seed: int) -> "Duel":
        """Load both policies on the base they share.

        Raises:
            UserError: If one is missing, or they do not share base, tokenizer and template.
        """
        manifest = read_manifest(policy)
        expected = Expected(
            manifest.base_fingerprint, manifest.tokenizer_hash, manifest.template_hash
        )
        check_fits(read_manifest(against), expected, against)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config = BackboneConfig(manifest.base, precision_named(manifest.precision))
        backbone = Backbone(load_base(config, device), config.lora)
        for role, folder in (("policy", policy), ("reference", against)):
            backbone.add_role(role, read_adapter(folder), trainable=False)
        template = load_template(str(policy), "tokenizer")
        return cls(backbone, template, expected, sampling, seed)

    def load_prompts(self, path: str, *, number: int, max_length: int, seed: int) -> None:
        """Read the prompts; those that cannot be used are left out and counted on stderr."""
        loaded = load_examples(
            path,
            self.template,
            split="validation",
            columns={},
            kind="prompts",
            max_length=max_length,
            bad_records="skip",
            seed=seed,
        )
        self.prompts = cast("list[PromptExample]", loaded.examples[:number])

    def load_judge(self, folder: Path) -> None:
        """Let a reward model judge.

        Raises:
            UserError: If it is missing or does not fit the policies' base and template.
        """
        check_fits(read_manifest(folder), self.expected, folder)
        self.backbone.add_role("reward", read_adapter(folder), trainable=False)

    def result(self, judge: str) -> dict[str, Any]:
        """Score, accuracy if the judge tells, KL, length, EOS and n of both; the win rate."""
        answers = {
            name: sampled_answers(
                self.backbone, role, self.prompts, self.template, self.sampling, seed=self.seed
            )
            for name, role in ROLES.items()
        }
        verdicts = {name: self._judged(judge, given) for name, given in answers.items()}
        wins = share_of(wins_of(verdicts["policy"].scores, verdicts["against"].scores))
        return {
            "models": {name: _row(verdicts[name], answers[name]) for name in ROLES},
            "win_rate": {"value": wins.value, "low": wins.low, "high": wins.high, "n": wins.n},
        }

    def _judged(self, judge: str, answers: Answers) -> Judgement:
        if "reward" in self.backbone.roles:
            scores = model_scores(self.backbone, "reward", self.prompts, answers.responses)
            return Judgement(scores, None)
        return judged(judge, self.prompts, answers)


def _row(verdict: Judgement, answers: Answers) -> dict[str, Any]:
    score = mean_of(verdict.scores)
    accuracy = None if verdict.correct is None else mean_of(verdict.correct).value
    return {"gold": score.value, "gold_se": score.se, "accuracy": accuracy, **facts_of(answers)}
