"""Responses of a module's role to a batch of prompts."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlhf_forge import ranks
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.data.collate import PromptBatch
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.tokenize import Example
from rlhf_forge.generation.decode import Response, generate
from rlhf_forge.generation.engine import Request
from rlhf_forge.generation.rows import join
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.memory import Sized, within_rows

# Held-out responses are drawn under an iteration number that no training step reaches.
HELD_OUT = 2**31


class Generator(Sized, Protocol):
    """What a module must have to generate."""

    seed: int
    backbone: Backbone
    sampling: Sampling
    template: ChatTemplate


class Responder(Generator, Protocol):
    """What a module must have to answer prompts."""

    role: str

    @property
    def held_out(self) -> Sequence[Example]:
        """The examples that the module is not trained on."""


def rows_of(batch: PromptBatch) -> list[list[int]]:
    """The prompts of a left-padded batch, without padding."""
    return [t[m].tolist() for t, m in zip(batch.tokens, batch.mask, strict=True)]


def respond(
    module: Responder, batch: PromptBatch, *, iteration: int, each: int = 1
) -> list[Response]:
    """``each`` responses a prompt, those to one prompt side by side.

    A response's randomness is a function of (seed, iteration, its number), and its number one of
    (position of the prompt, place among its responses).
    """
    positions = batch.positions.tolist()
    requests = [
        Request(prompt, module.role, (module.seed, iteration, position * each + place))
        for prompt, position in zip(rows_of(batch), positions, strict=True)
        for place in range(each)
    ]
    return generated(module, requests)


def generated(module: Generator, requests: Sequence[Request]) -> list[Response]:
    """Responses as the module samples, ``max_rows`` at once, or fewer if memory runs out.

    Of several processes each generates its share, and has all responses in the end.
    """
    eos_ids, own = module.template.eos_ids, ranks.share(requests)

    def attempt() -> list[Response]:
        return generate(module.backbone, own, module.sampling, eos_ids, max_rows=module.max_rows)

    return ranks.gathered(within_rows(module, len(own), attempt))


def generated_held_out(
    module: Generator, role: str, prompts: Sequence[list[int]]
) -> list[Response]:
    """Responses of ``role`` to the first held-out prompts: the same random numbers every time."""
    requests = [
        Request(prompt, role, (module.seed, HELD_OUT, row)) for row, prompt in enumerate(prompts)
    ]
    return generated(module, requests)


def sample(
    module: Responder, batch: PromptBatch, *, iteration: int, each: int = 1
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"], Bool[Tensor, "batch"]]:
    """Right-padded rows of prompt and response, mask of the response, and what ended itself."""
    responses = respond(module, batch, iteration=iteration, each=each)
    prompts = [prompt for prompt in rows_of(batch) for _ in range(each)]
    tokens, mask = join(prompts, responses, module.backbone.device)
    finished = torch.tensor([r.finished for r in responses], device=tokens.device)
    return tokens, mask, finished


def held_out_answers(module: Responder, batch: PromptBatch) -> list[dict[str, Any]]:
    """Answer held-out prompts: each prompt, response, and whether it ended by itself."""
    responses = respond(module, batch, iteration=HELD_OUT)
    return [
        {
            "prompt": module.held_out[position].record.prompt,
            "response": module.template.decode(response.tokens),
            "finished": response.finished,
        }
        for position, response in zip(batch.positions.tolist(), responses, strict=True)
    ]
