"""What policies on one base answer to the same prompts, and how good that is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.evaluation.judges import Judgement, judge
from rlhf_forge.evaluation.rewards import Asked
from rlhf_forge.evaluation.statistics import mean_of
from rlhf_forge.functional.kl import kl_estimate
from rlhf_forge.generation.decode import Response, generate
from rlhf_forge.generation.engine import Request
from rlhf_forge.generation.rows import join, per_row
from rlhf_forge.generation.sampler import Sampling

# Padded tokens of one scoring forward, and rows generated at once.
MAX_TOKENS, MAX_ROWS = 16_384, 128


@dataclass(frozen=True)
class Answers:
    """One policy's responses to a list of prompts.

    Attributes:
        texts: Without control tokens.
        responses: The tokens.
        kl: k1 estimate of KL from what the policy is compared with, nats per response; None for a
            greedy policy: it puts all on one token, so there is no KL to estimate.
    """

    texts: list[str]
    responses: list[Response]
    kl: list[float] | None


def answer(
    backbone: Backbone,
    role: str,
    prompts: Sequence[PromptExample],
    template: ChatTemplate,
    sampling: Sampling,
    *,
    seed: int,
    max_rows: int = MAX_ROWS,
) -> list[Response]:
    """Responses of ``role``; row r's randomness is a function of (seed, r)."""
    requests = [Request(p.tokens, role, (seed, row)) for row, p in enumerate(prompts)]
    return generate(backbone, requests, sampling, template.eos_ids, max_rows=max_rows)


def sampled_answers(
    backbone: Backbone,
    role: str,
    prompts: Sequence[PromptExample],
    template: ChatTemplate,
    sampling: Sampling,
    *,
    seed: int,
    kl_from: str = "reference",
    max_rows: int = MAX_ROWS,
) -> Answers:
    """Responses of ``role`` with their KL from the role ``kl_from``."""
    responses = answer(backbone, role, prompts, template, sampling, seed=seed, max_rows=max_rows)
    texts = [template.decode(response.tokens) for response in responses]
    if sampling.temperature == 0:
        return Answers(texts, responses, None)
    if role == kl_from:
        return Answers(texts, responses, [0.0] * len(responses))
    kl = partial(_kl, backbone, role, kl_from, sampling.temperature)
    return Answers(texts, responses, _per_row(backbone, prompts, responses, kl))


def model_scores(
    backbone: Backbone,
    role: str,
    prompts: Sequence[PromptExample],
    responses: Sequence[Response],
) -> list[float]:
    """Normalised scores that the reward model in ``role`` gives."""
    return _per_row(backbone, prompts, responses, partial(score, backbone, role=role))


def judged(path: str, prompts: Sequence[PromptExample], answers: Answers) -> Judgement:
    """What the judge function at ``path`` makes of the answers."""
    asked = asked_of(prompts, answers)
    return judge(path, asked.prompts, asked.responses, asked.records)


def asked_of(prompts: Sequence[PromptExample], answers: Answers) -> Asked:
    """The answers as a function is given them."""
    return Asked(
        prompts=[p.record.prompt for p in prompts],
        responses=answers.texts,
        records=[
            p.record.fields | {"finished": response.finished}
            for p, response in zip(prompts, answers.responses, strict=True)
        ],
    )


def facts_of(answers: Answers) -> dict[str, float | None]:
    """KL in nats per response, length in tokens, share that ended by itself, number."""
    return {
        "kl": None if answers.kl is None else mean_of(answers.kl).value,
        "length": mean_of([float(len(r.tokens)) for r in answers.responses]).value,
        "eos": mean_of([float(r.finished) for r in answers.responses]).value,
        "n": len(answers.texts),
    }


def _per_row(
    backbone: Backbone,
    prompts: Sequence[PromptExample],
    responses: Sequence[Response],
    function: Callable[[Tensor, Tensor], Tensor],
) -> list[float]:
    tokens, mask = join([p.tokens for p in prompts], responses, backbone.device)
    numbers: list[float] = per_row(function, tokens, mask, max_tokens=MAX_TOKENS).tolist()
    return numbers


def _kl(
    backbone: Backbone, role: str, other: str, temperature: float, tokens: Tensor, mask: Tensor
) -> Tensor:
    with backbone.using(role):
        ours, _ = backbone.log_probs(tokens, mask, temperature=temperature)
    with backbone.using(other):
        theirs, _ = backbone.log_probs(tokens, mask, temperature=temperature)
    return torch.where(mask, kl_estimate(ours, theirs, estimator="k1"), 0.0).sum(-1)
