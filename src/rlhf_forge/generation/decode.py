"""The decode loop: prompts in, one token a running row and step out."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.generation.sampler import Sampling, draw, uniform_draws

# Finished rows leave the cache when at most this share of its rows is still running: moving the
# cache costs about as much as a step, so rows leave in groups.
SHRINK_BELOW = 0.75


@dataclass(frozen=True)
class Request:
    """One response to generate.

    Attributes:
        prompt: Token ids, at least one.
        role: Whose adapter generates.
        key: What its randomness is a function of; see `uniform_draws`.
    """

    prompt: Sequence[int]
    role: str
    key: Sequence[int]


@dataclass(frozen=True)
class Response:
    """What was generated.

    Attributes:
        tokens: Token ids, the end-of-sequence token included if it came.
        finished: False if the length limit cut the response.
    """

    tokens: list[int]
    finished: bool


@dataclass
class _Running:
    """The rows still in the cache, and where each stands in the caller's list."""

    rows: Int[Tensor, "running"]
    mask: Int[Tensor, "running seen"]
    positions: Int[Tensor, "running"]
    uniforms: Float[Tensor, "running length"]
    cache: DynamicCache

    def keep(self, kept: Bool[Tensor, "running"]) -> None:
        index = kept.nonzero().squeeze(-1)
        self.rows, self.mask = self.rows[index], self.mask[index]
        self.positions, self.uniforms = self.positions[index], self.uniforms[index]
        self.cache.batch_select_indices(index)


@torch.no_grad()
def decode(
    backbone: Backbone,
    requests: Sequence[Request],
    sampling: Sampling,
    eos_ids: Collection[int],
) -> Iterator[dict[int, int]]:
    """Generate for all ``requests`` as one batch, yielding ``{request index: token}`` each step.

    A request ends after an id of ``eos_ids`` (which is yielded) or at ``max_new_tokens``; the loop
    ends with the last of them. Rows do not influence each other's draws.
    """
    state, tokens = _prefill(backbone, requests, sampling.max_new_tokens)
    ends = torch.tensor(sorted(eos_ids), device=backbone.device)
    done = torch.zeros(len(requests), dtype=torch.bool, device=backbone.device)
    for step in range(sampling.max_new_tokens):
        roles = [requests[row].role for row in state.rows.tolist()]
        with backbone.using(roles):
            logits = backbone.next_logits(
                tokens, state.mask, _new_positions(state, step), state.cache
            )
        drawn = draw(logits, state.uniforms[:, step], sampling)
        running = ~done[state.rows]
        yield dict(zip(state.rows[running].tolist(), drawn[running].tolist(), strict=True))
        done[state.rows] |= torch.isin(drawn, ends)
        running = ~done[state.rows]
        if not running.any():
            return
        if running.sum() <= SHRINK_BELOW * len(running):
            state.keep(running)
            drawn = drawn[running]
        tokens = drawn.unsqueeze(-1)
        state.mask = torch.cat([state.mask, torch.ones_like(tokens)], dim=1)


def _prefill(
    backbone: Backbone, requests: Sequence[Request], length: int
) -> tuple[_Running, Int[Tensor, "batch prompt"]]:
    """State before the first step, and the left-padded prompts as its first tokens."""
    if not requests or not all(len(request.prompt) for request in requests):
        raise ValueError("decode needs at least one request, and a token in every prompt")
    device = backbone.device
    width = max(len(request.prompt) for request in requests)
    tokens = torch.zeros(len(requests), width, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, request in enumerate(requests):
        tokens[row, width - len(request.prompt) :] = torch.tensor(request.prompt)
        mask[row, width - len(request.prompt) :] = 1
    uniforms = torch.from_numpy(uniform_draws([request.key for request in requests], length))
    state = _Running(
        rows=torch.arange(len(requests), device=device),
        mask=mask.to(device),
        positions=mask.sum(-1).to(device),
        uniforms=uniforms.to(device),
        cache=DynamicCache(config=backbone.model.config),
    )
    return state, tokens.to(device)


def _new_positions(state: _Running, step: int) -> Int[Tensor, "running new"]:
    """Positions of the tokens about to be read: a row's own count of real tokens, pads at 0."""
    if step == 0:
        return (state.mask.cumsum(-1) - 1).clamp_min(0)
    return (state.positions + step - 1).unsqueeze(-1)


def generate(
    backbone: Backbone,
    requests: Sequence[Request],
    sampling: Sampling,
    eos_ids: Collection[int],
    *,
    max_rows: int,
) -> list[Response]:
    """Generate for all ``requests``, at most ``max_rows`` at a time, in their order.

    Rows are batched by prompt length, so little is padded; by the promise of `decode` that changes
    no row's randomness.
    """
    responses: list[list[int]] = [[] for _ in requests]
    by_length = sorted(range(len(requests)), key=lambda row: len(requests[row].prompt))
    for start in range(0, len(by_length), max_rows):
        rows = by_length[start : start + max_rows]
        for step in decode(backbone, [requests[row] for row in rows], sampling, eos_ids):
            for local, token in step.items():
                responses[rows[local]].append(token)
    return [Response(tokens, tokens[-1] in set(eos_ids)) for tokens in responses]
