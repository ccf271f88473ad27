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
    state, logits = _prefill(backbone, requests, sampling.max_new_tokens)
    ends = torch.tensor(sorted(eos_ids), device=backbone.device)
    done = torch.zeros(len(requests), dtype=torch.bool, device=backbone.device)
    for step in range(sampling.max_new_tokens):
        drawn = draw(logits, state.uniforms[:, step], sampling)
        running = ~done[state.rows]
        yield dict(zip(state.rows[running].tolist(), drawn[running].tolist(), strict=True))
        done[state.rows] |= torch.isin(drawn, ends)
        running = ~done[state.rows]
        if step + 1 == sampling.max_new_tokens or not running.any():
            return
        if running.sum() <= SHRINK_BELOW * len(running):
            state.keep(running)
            drawn = drawn[running]
        logits = _read(backbone, requests, state, drawn, step)


def _read(
    backbone: Backbone,
    requests: Sequence[Request],
    state: _Running,
    drawn: Int[Tensor, "running"],
    step: int,
) -> Float[Tensor, "running vocab"]:
    """Logits after the tokens drawn in ``step``."""
    tokens = drawn.unsqueeze(-1)
    state.mask = torch.cat([state.mask, torch.ones_like(tokens)], dim=1)
    positions = (state.positions + step).unsqueeze(-1)
    with backbone.using([requests[row].role for row in state.rows.tolist()]):
        return backbone.next_logits(tokens, state.mask, positions, state.cache)


def _prefill(
    backbone: Backbone, requests: Sequence[Request], length: int
) -> tuple[_Running, Float[Tensor, "batch vocab"]]:
    """State before the first token is drawn, and the logits to draw it from.

    A prompt that several requests of a role share is read once.
    """
    if not requests or not all(len(request.prompt) for request in requests):
        raise ValueError("decode needs at least one request, and a token in every prompt")
    device = backbone.device
    places: dict[tuple[str, tuple[int, ...]], int] = {}
    owners = [places.setdefault((r.role, tuple(r.prompt)), len(places)) for r in requests]
    tokens, mask = (part.to(device) for part in _left_padded([prompt for _, prompt in places]))
    cache = DynamicCache(config=backbone.model.config)
    with backbone.using([role for role, _ in places]):
        logits = backbone.next_logits(tokens, mask, (mask.cumsum(-1) - 1).clamp_min(0), cache)
    index = torch.tensor(owners, device=device)
    if len(places) < len(requests):
        cache.batch_select_indices(index)
    uniforms = torch.from_numpy(uniform_draws([request.key for request in requests], length))
    state = _Running(
        rows=torch.arange(len(requests), device=device),
        mask=mask[index],
        positions=mask.sum(-1)[index],
        uniforms=uniforms.to(device),
        cache=cache,
    )
    return state, logits[index]


def _left_padded(
    prompts: Sequence[Sequence[int]],
) -> tuple[Int[Tensor, "batch prompt"], Int[Tensor, "batch prompt"]]:
    """Prompts as one batch, and 1 on their tokens; pads, on the left, are 0."""
    width = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return tokens, mask


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
