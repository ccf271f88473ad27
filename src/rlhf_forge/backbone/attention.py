"""Attention for CPUs: two products and a softmax.

On a CPU the backward of torch's fused attention took 37 % of a small model's training step; plain
products are faster with gradients and no slower without (`benchmarks/`). Grouped queries share
their keys by a view, where the usual code copies keys and values once per query head.
"""

from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf_forge.functional.products import has_bf16_units

PLAIN = "rlhf_forge_plain"


def plain_attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads new head"],
    key: Float[Tensor, "batch kv_heads seen head"],
    value: Float[Tensor, "batch kv_heads seen head"],
    attention_mask: Float[Tensor, "#batch 1 new seen"] | None,
    scaling: float,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Float[Tensor, "batch new heads head"], None]:
    """Softmax attention with grouped queries; the softmax is in float32 or better.

    Args:
        module: The layer that asks; not used.
        query: Queries of the new tokens.
        key: Keys of all tokens so far.
        value: Values of all tokens so far.
        attention_mask: Added to the logits: 0 where a token may look, very negative elsewhere.
        scaling: Factor on the logits.
        dropout: Must be 0: ratio 1 and KL 0 hold only without.
        others: What transformers tells besides, such as the window, which the mask holds already.

    Raises:
        ValueError: If ``dropout`` is not 0, or the model caps its logits or adds sinks to them.
    """
    if dropout:
        raise ValueError(f"attention_dropout must be 0 under RLHF, got {dropout}")
    for name in ("softcap", "s_aux"):
        if others.get(name) is not None:
            raise ValueError(f"models whose attention has {name} are not supported")
    dtype = query.dtype
    if dtype == torch.bfloat16 and not has_bf16_units(query.device.type):
        query, key, value = query.float(), key.float(), value.float()
    batch, heads, new, head = query.shape
    kv_heads, seen = key.shape[1], key.shape[2]
    # One product per key head: its group of query heads stands in the row dimension.
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * new, head)
    logits = (grouped * scaling) @ key.transpose(2, 3)
    logits = logits.view(batch, heads, new, seen)
    if attention_mask is not None:
        logits = logits + attention_mask
    precise = torch.promote_types(logits.dtype, torch.float32)
    weights = logits.softmax(-1, dtype=precise).to(value.dtype)
    mixed = weights.view(batch, kv_heads, heads // kv_heads * new, seen) @ value
    return mixed.view(batch, heads, new, head).transpose(1, 2).to(dtype), None


def attention_for(device: torch.device) -> str:
    """Name of the attention, as transformers knows it, that is faster on ``device``."""
    if device.type != "cpu":
        return "sdpa"
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(PLAIN, plain_attention)
    AttentionMaskInterface.register(PLAIN, eager_mask)
    return PLAIN


def cache_argument(model: nn.Module, cache: Any) -> dict[str, Any]:
    """``cache`` under the name by which the model's forward takes it.

    transformers 5.24 calls it cache and warns of past_key_values, its name before.
    """
    named = "cache" in signature(model.forward).parameters
    return {"cache" if named else "past_key_values": cache}
