"""Responses of a module's role to a batch of prompts."""

from typing import Protocol

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.data.collate import PromptBatch
from rlhf_forge.generation.decode import Request, Response, generate
from rlhf_forge.generation.sampler import Sampling


class Responder(Protocol):
    """What a module must have to answer prompts."""

    backbone: Backbone
    sampling: Sampling
    seed: int
    role: str
    max_rows: int
    eos_ids: frozenset[int]


def rows_of(batch: PromptBatch) -> list[list[int]]:
    """The prompts of a left-padded batch, without padding."""
    return [t[m].tolist() for t, m in zip(batch.tokens, batch.mask, strict=True)]


def respond(module: Responder, batch: PromptBatch, *, iteration: int) -> list[Response]:
    """One response a prompt; a row's randomness is a function of (seed, iteration, position)."""
    positions = batch.positions.tolist()
    requests = [
        Request(prompt, module.role, (module.seed, iteration, position))
        for prompt, position in zip(rows_of(batch), positions, strict=True)
    ]
    return generate(
        module.backbone, requests, module.sampling, module.eos_ids, max_rows=module.max_rows
    )
