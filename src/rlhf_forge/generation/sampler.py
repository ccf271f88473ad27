"""Drawing one token a row, so that a row's draw depends on nothing but its own key."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf_forge.randomness import generator


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Draw from the smallest set of tokens with at least this probability; 1 for all.
        top_k: Draw from the k likeliest tokens; 0 for all.
        max_new_tokens: A response ends here if no end-of-sequence token came before.

    Rollouts for PPO keep top_p 1 and top_k 0: any other choice samples from another distribution
    than the log-probabilities describe.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (all tokens) or more, got {self.top_k}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, got {self.max_new_tokens}")

    @property
    def choice(self) -> tuple[float, float, int]:
        """What decides a token: all but the length."""
        return self.temperature, self.top_p, self.top_k


def uniform_draws(keys: Sequence[Sequence[int]], length: int) -> Float[np.ndarray, "rows length"]:
    """Numbers in [0, 1) for each row, a function of its key alone.

    Args:
        keys: One key a row, such as (seed, iteration, global row): non-negative integers.
        length: How many numbers a row may need.
    """
    rows = [generator(seed, "sample", *numbers).random(length) for seed, *numbers in keys]
    return np.stack(rows) if rows else np.empty((0, length))


def draw(
    logits: Float[Tensor, "rows vocab"], uniforms: Float[Tensor, "rows"], sampling: Sampling
) -> Int[Tensor, "rows"]:
    """One token a row by inverting the distribution function at the row's uniform number.

    Unlike ``torch.multinomial`` with one generator, a row's token does not move when its
    neighbours change. A token of probability zero is never drawn.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    # float64: a float32 running sum over 32k tokens is off by more than rare tokens' probability.
    probabilities = (logits.double() / sampling.temperature).softmax(-1)
    if sampling.top_k or sampling.top_p < 1:
        probabilities = _shortened(probabilities, sampling)
    heights = probabilities.cumsum(-1)
    wanted = uniforms.double().unsqueeze(-1) * heights[:, -1:]
    tokens = torch.searchsorted(heights, wanted, right=True).squeeze(-1)
    return tokens.clamp_max(logits.shape[-1] - 1)


def _shortened(probabilities: Tensor, sampling: Sampling) -> Tensor:
    """Zero outside the k likeliest tokens and outside the top-p set."""
    # Stable, as equal logits are common in bf16: of those at the edge the first ones stay, on any
    # device and in any batch.
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    above = ordered.cumsum(-1) - ordered
    drop = above >= sampling.top_p
    if sampling.top_k:
        drop[:, sampling.top_k :] = True
    return probabilities.scatter(-1, order, ordered.masked_fill(drop, 0.0))
