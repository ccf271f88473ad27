"""What policies on one base answer to the same prompts, and how good that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import row_ends, row_width, score
from rlhf_forge.data.collate import micro_batches
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.evaluation.judges import Judgement, judge
from rlhf_forge.evaluation.statistics import mean_of
from rlhf_forge.functional.kl import kl_estimate
from rlhf_forge.generation.decode import Request, Response, generate
from rlhf_forge.generation.rows import join
from rlhf_forge.generation.sampler import Sampling

# Padded tokens of one scoring forward, and rows generated at once.
MAX_TOKENS, MAX_ROWS = 16_384, 128


@dataclass(frozen=True)
class Answers:
    """One policy's responses to a list of prompts.

    Attributes:
        texts: Without control tokens.
        responses: The tokens.
        kl: k1 estimate of KL from the reference, nats per response.
    """

    texts: list[str]
    responses: list[Response]
    kl: list[float]


def answer(
    backbone: Backbone,
    role: str,
    prompts: Sequence[PromptExample],
    template: ChatTemplate,
    sampling: Sampling,
    *,
    seed: int,
) -> list[Response]:
    """Responses of ``role``; row r's randomness is a function of (seed, r)."""
    requests = [Request(p.tokens, role, (seed, row)) for row, p in enumerate(prompts)]
    return generate(backbone, requests, sampling, template.eos_ids, max_rows=MAX_ROWS)


def sampled_answers(
    backbone: Backbone,
    role: str,
    prompts: Sequence[PromptExample],
    template: ChatTemplate,
    sampling: Sampling,
    *,
    seed: int,
) -> Answers:
    """Responses of ``role`` with their KL from the role ``reference``."""
    responses = answer(backbone, role, prompts, template, sampling, seed=seed)
    tokens, mask = join([p.tokens for p in prompts], responses, backbone.device)
    kl = torch.cat([_kl(backbone, role, *part, sampling) for part in _parts(tokens, mask)])
    order = [row for rows in _cuts(mask) for row in rows]
    in_order = torch.empty_like(kl).index_copy(0, torch.tensor(order, device=kl.device), kl)
    texts = [template.decode(response.tokens) for response in responses]
    return Answers(texts, responses, in_order.tolist())


def model_scores(
    backbone: Backbone,
    role: str,
    prompts: Sequence[PromptExample],
    responses: Sequence[Response],
) -> list[float]:
    """Normalised scores that the reward model in ``role`` gives."""
    tokens, mask = join([p.tokens for p in prompts], responses, backbone.device)
    scores = torch.zeros(len(prompts), device=backbone.device)
    with torch.no_grad():
        for rows, part in zip(_cuts(mask), _parts(tokens, mask), strict=True):
            scores[rows] = score(backbone, *part, role=role)
    result: list[float] = scores.tolist()
    return result


def judged(path: str, prompts: Sequence[PromptExample], answers: Answers) -> Judgement:
    """What the judge function at ``path`` makes of the answers."""
    records = [
        p.record.fields | {"finished": response.finished}
        for p, response in zip(prompts, answers.responses, strict=True)
    ]
    return judge(path, [p.record.prompt for p in prompts], answers.texts, records)


def facts_of(answers: Answers) -> dict[str, float]:
    """KL in nats per response, length in tokens, share that ended by itself, number."""
    return {
        "kl": mean_of(answers.kl).value,
        "length": mean_of([float(len(r.tokens)) for r in answers.responses]).value,
        "eos": mean_of([float(r.finished) for r in answers.responses]).value,
        "n": len(answers.texts),
    }


@torch.no_grad()
def _kl(backbone: Backbone, role: str, tokens: Tensor, mask: Tensor, sampling: Sampling) -> Tensor:
    if role == "reference":
        return torch.zeros(len(tokens), device=tokens.device)
    with backbone.using(role):
        ours, _ = backbone.log_probs(tokens, mask, temperature=sampling.temperature)
    with backbone.using("reference"):
        theirs, _ = backbone.log_probs(tokens, mask, temperature=sampling.temperature)
    return torch.where(mask, kl_estimate(ours, theirs, estimator="k1"), 0.0).sum(-1)


def _cuts(mask: Bool[Tensor, "batch time"]) -> list[list[int]]:
    return micro_batches(row_ends(mask), max_tokens=MAX_TOKENS)


def _parts(
    tokens: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
) -> list[tuple[Tensor, Tensor]]:
    parts = []
    for rows in _cuts(mask):
        width = row_width(mask[rows])
        parts.append((tokens[rows, :width], mask[rows, :width]))
    return parts
