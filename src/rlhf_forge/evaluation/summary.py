"""Before and after: base, SFT and policies on the same held-out prompts, and the reward model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.tokenize import PairExample, PromptExample
from rlhf_forge.evaluation.judges import Judgement, annotate
from rlhf_forge.evaluation.policies import (
    MAX_ROWS,
    Answers,
    answer,
    asked_of,
    facts_of,
    judged,
    model_scores,
    sampled_answers,
)
from rlhf_forge.evaluation.reward_accuracy import PairScores, by_kind, score_pairs
from rlhf_forge.evaluation.rewards import MODEL_ALONE, Reward
from rlhf_forge.evaluation.statistics import mean_of, share_of, wins_of
from rlhf_forge.generation.sampler import Sampling


@dataclass(frozen=True)
class EvaluationSettings:
    """How a pipeline judges what it trained.

    Args:
        judge: module:function that scores responses; none: what the policy was rewarded by.
        annotator: module:function that labels pairs of the reference's responses; none: the
            reward model is only measured on held-out pairs.
        number: Held-out prompts.
        seed: Of the sampled responses.

    Raises:
        ValueError: If there would be no prompts, or the seed is none.
    """

    judge: str | None = None
    annotator: str | None = None
    number: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("number", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")


@dataclass(frozen=True)
class Evaluator:
    """Everything one evaluation needs.

    Attributes:
        backbone: With the roles reference (SFT, or the bare base), of the policies, and reward, if
            there is one; and base, if the reference is SFT's.
        template: Of the run.
        prompts: Held out.
        pairs: Held out; may be empty.
        sampling: Of PPO's rollouts.
        settings: Of the evaluation.
        max_rows: Rows generated at once.
        has_sft: Whether the reference is SFT's.
        reward: What the first policy was rewarded by; its model is in the role reward.
        policies: The role of each policy that started at the reference; the run's own one first.
    """

    backbone: Backbone
    template: ChatTemplate
    prompts: Sequence[PromptExample]
    pairs: Sequence[PairExample]
    sampling: Sampling
    settings: EvaluationSettings
    max_rows: int = MAX_ROWS
    has_sft: bool = True
    reward: Reward = MODEL_ALONE
    policies: Mapping[str, str] = field(default_factory=lambda: {"ppo": "policy"})

    @property
    def roles(self) -> dict[str, str]:
        """The role of each model. What the policies started at is reference."""
        before = {"base": "base", "sft": "reference"} if self.has_sft else {"base": "reference"}
        return before | dict(self.policies)

    @property
    def start(self) -> str:
        """The model that the policies started at."""
        return "sft" if self.has_sft else "base"

    def summary(self) -> dict[str, Any]:
        """Models, gains, win rates and reward accuracy, as ``summary.json`` holds them.

        ``gain`` and ``win_rate`` are those of the first policy; the others' are in ``policies``.
        """
        answers, verdicts = self._answers, self._verdicts
        found = {name: self._over_start(name, verdicts) for name in self.policies}
        first, *others = self.policies
        return {
            "models": {
                name: self._model(role, verdicts[name], answers[name])
                for name, role in self.roles.items()
            },
            **found[first],
            "policies": {name: found[name] for name in others},
            "reward": self.reward_accuracy(answers[self.start]),
        }

    def responses(self) -> Iterator[dict[str, Any]]:
        """For each prompt what every model answered, with its score: lines of responses.jsonl."""
        for row, prompt in enumerate(self.prompts):
            models = {
                name: {
                    "text": answers.texts[row],
                    "score": self._verdicts[name].scores[row],
                    "tokens": len(answers.responses[row].tokens),
                    "finished": answers.responses[row].finished,
                }
                for name, answers in self._answers.items()
            }
            yield {"prompt": prompt.record.prompt[-1]["content"], "models": models}

    @cached_property
    def _answers(self) -> dict[str, Answers]:
        return {name: self.answers(role) for name, role in self.roles.items()}

    @cached_property
    def _verdicts(self) -> dict[str, Judgement]:
        return {name: self.judged(given) for name, given in self._answers.items()}

    def answers(self, role: str) -> Answers:
        """Sampled responses of a role."""
        return self._sampled(role, seed=self.settings.seed)

    def judged(self, answers: Answers) -> Judgement:
        """By the judge function, or by the run's reward if there is none."""
        if self.settings.judge is not None:
            return judged(self.settings.judge, self.prompts, answers)
        of_model = [0.0] * len(self.prompts)
        if self.reward.model is not None:
            of_model = model_scores(self.backbone, "reward", self.prompts, answers.responses)
        scores = self.reward.scores(
            torch.tensor(of_model), lambda: asked_of(self.prompts, answers), when="evaluation"
        )
        return Judgement(scores.tolist(), None)

    def _sampled(self, role: str, *, seed: int) -> Answers:
        return sampled_answers(
            self.backbone,
            role,
            self.prompts,
            self.template,
            self.sampling,
            seed=seed,
            max_rows=self.max_rows,
        )

    def _over_start(self, name: str, verdicts: Mapping[str, Judgement]) -> dict[str, Any]:
        """What a policy has gained over the model it started at, paired by prompt."""
        before, after = verdicts[self.start].scores, verdicts[name].scores
        gain = mean_of([b - a for a, b in zip(before, after, strict=True)])
        win = share_of(wins_of(after, before))
        return {
            "gain": {"gold": gain.value, "se": gain.se},
            "win_rate": {f"{name}_vs_{self.start}": win.value, "low": win.low, "high": win.high},
        }

    def _model(self, role: str, verdict: Judgement, answers: Answers) -> dict[str, Any]:
        gold = mean_of(verdict.scores)
        accuracy = None if verdict.correct is None else mean_of(verdict.correct).value
        return {
            "gold": gold.value,
            "gold_se": gold.se,
            "accuracy": accuracy,
            "accuracy_greedy": None if accuracy is None else self._greedy_accuracy(role),
            **facts_of(answers),
        }

    def _greedy_accuracy(self, role: str) -> float:
        greedy = replace(self.sampling, temperature=0.0)
        responses = answer(
            self.backbone,
            role,
            self.prompts,
            self.template,
            greedy,
            seed=0,
            max_rows=self.max_rows,
        )
        texts = [self.template.decode(response.tokens) for response in responses]
        verdict = self.judged(Answers(texts, responses, []))
        return mean_of(verdict.correct or []).value

    def reward_accuracy(self, before: Answers) -> dict[str, Any]:
        """On all held-out pairs (mixed), by their kind, and on the reference's own responses."""
        found: dict[str, Any] = {}
        if "reward" not in self.backbone.roles:
            return found
        if self.settings.annotator is not None:
            found["on_policy"] = self._on_policy(before, self.settings.annotator).accuracy()
        if not self.pairs:
            return found
        scores = score_pairs(self.backbone, "reward", self.pairs)
        found["mixed"] = scores.accuracy()
        for kind, rows in by_kind(self.pairs).items():
            # A kind called mixed is one of several; the name is taken by all of them together.
            name = f"{kind}_kind" if kind in found else kind
            found[name] = scores.of(rows).accuracy()
        return found

    def _on_policy(self, first: Answers, annotator: str) -> PairScores:
        """Two responses of the reference to each prompt, labelled, equal texts left out."""
        second = self._sampled("reference", seed=self.settings.seed + 1)
        rows = [r for r in range(len(self.prompts)) if first.texts[r] != second.texts[r]]
        records = [
            self.prompts[row].record.fields
            | {
                "finished_first": first.responses[row].finished,
                "finished_second": second.responses[row].finished,
            }
            for row in rows
        ]
        sides = [[given.texts[row] for row in rows] for given in (first, second)]
        labels = annotate(annotator, records, *sides, seed=self.settings.seed)
        prompts = [self.prompts[row] for row in rows]
        one, other = (
            model_scores(self.backbone, "reward", prompts, [given.responses[row] for row in rows])
            for given in (first, second)
        )
        return PairScores(
            one,
            other,
            preferred=[label.first_preferred for label in labels],
            agreement=[label.agreement for label in labels],
        )
