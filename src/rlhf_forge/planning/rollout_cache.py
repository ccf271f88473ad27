"""Bytes of the keys and values of running rows, and of reading their prompts."""

from rlhf_forge.generation.cache import columns_for
from rlhf_forge.generation.engine import PREFILL_TOKENS
from rlhf_forge.planning.shape import Shape


def cache_bytes(shape: Shape, size: int, *, rows: int, prompt: int, new: int) -> int:
    """Keys and values of ``rows`` slots, in the columns that the cache allots.

    A column is 2 x layers x k numbers. Growing moves one layer at a time, so one is held twice.

    Args:
        shape: Of the base.
        size: Bytes of a number.
        rows: Slots of the engine.
        prompt: Tokens of the longest prompt.
        new: Tokens of the longest response.
    """
    columns = 0
    for position in range(prompt, prompt + new + 1):
        columns = columns_for(position, columns)
    return rows * columns * 2 * (shape.layers + 1) * shape.keys * size


def prefill_bytes(shape: Shape, size: int, *, rows: int, prompt: int, fused: bool) -> int:
    """Most that reading ``rows`` prompts, some at once, holds beside the cache; no gradients.

    The gated layer's three wide tensors and the stream's two, or attention's logits and weights in
    float32, which a GPU's fused attention does without.
    """
    tokens = min(rows * prompt, max(prompt, PREFILL_TOKENS))
    gated = size * (3 * shape.inner + 2 * shape.width)
    attention = 0 if fused else 2 * 4 * shape.heads * prompt
    return tokens * max(gated, attention)
