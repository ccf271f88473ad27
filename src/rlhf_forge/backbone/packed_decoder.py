"""A decoder's forward over packed rows, and what of it is stock.

transformers' own modules hold the weights and stay the reference: what this computes is tested
against them. Each layer is a few products over all tokens of all rows; behind the last attention
only the tokens asked for go on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer

from rlhf_forge.backbone.adapted_group import AdaptedGroup
from rlhf_forge.backbone.adapted_linear import AdaptedLinear
from rlhf_forge.backbone.flash_attention import Rows, flash_attends, flash_attention
from rlhf_forge.backbone.packed_attention import Heads, packed_attention
from rlhf_forge.backbone.packing import Packed
from rlhf_forge.backbone.rms_norm import rms_norm
from rlhf_forge.backbone.swiglu import swiglu
from rlhf_forge.functional.products import has_bf16_units

# Rotations that change with the longest row of a batch, which packing does not keep.
ANGLES_BY_LENGTH = frozenset({"dynamic", "longrope"})
# A layer's attention but for its shape, which is given as ``heads``.
Attention = Callable[..., Tensor]


class PackedDecoder:
    """The decoder of ``model``; see `can_pack`.

    Args:
        model: Its linear layers adapted.
        recompute: Recompute layers in the backward pass.
    """

    def __init__(self, model: PreTrainedModel, *, recompute: bool) -> None:
        self.decoder = model.model
        self.recompute = recompute
        self.attention = over_rows if model.device.type == "cuda" else over_blocks
        self.layers = [_Layer(layer) for layer in self.decoder.layers]

    def __call__(
        self, tokens: Int[Tensor, "batch time"], packed: Packed, role: str
    ) -> Float[Tensor, "wanted hidden"]:
        """Last hidden states of the tokens that ``packed`` wants."""
        states = self.decoder.embed_tokens(tokens.flatten()[packed.source])
        positions = torch.arange(packed.reach, device=states.device)
        angles = self.decoder.rotary_emb(states, positions.unsqueeze(0))
        # Both halves of a head are turned by the same angles.
        cos, sin = (table[0, :, : table.shape[-1] // 2].contiguous() for table in angles)
        attend = self.attention(packed, cos, sin)
        for layer in self.layers:
            wanted = packed.wanted if layer is self.layers[-1] else None
            run = partial(layer, attend=attend, role=role, wanted=wanted)
            if self.recompute and torch.is_grad_enabled():
                states = checkpoint(run, states, use_reentrant=False, preserve_rng_state=False)
            else:
                states = run(states)
        return _norm(self.decoder.norm, states)


class _Layer:
    """One layer of the decoder, as `PackedDecoder` calls it."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.norms = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = AdaptedGroup(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out = AdaptedGroup(attention.o_proj)
        self.gate_up = AdaptedGroup(mlp.gate_proj, mlp.up_proj)
        self.down = AdaptedGroup(mlp.down_proj)
        width = attention.head_dim
        queries, keys = (
            proj.frozen.out_features // width for proj in (attention.q_proj, attention.k_proj)
        )
        self.heads = Heads(queries, keys, width, attention.scaling)

    def __call__(
        self,
        states: Tensor,
        *,
        attend: Attention,
        role: str,
        wanted: Tensor | None,
    ) -> Tensor:
        qkv = self.qkv(_norm(self.norms[0], states), role)
        mixed = attend(qkv, heads=self.heads)
        if wanted is not None:
            mixed, states = mixed.index_select(0, wanted), states.index_select(0, wanted)
        states = self.out(mixed, role, states)
        return self.down(swiglu(self.gate_up(_norm(self.norms[1], states), role)), role, states)


def over_blocks(packed: Packed, cos: Tensor, sin: Tensor) -> Attention:
    """Attention on a CPU, with the angles of every position."""
    return partial(packed_attention, cos=cos, sin=sin, blocks=packed.blocks)


def over_rows(packed: Packed, cos: Tensor, sin: Tensor) -> Attention:
    """Attention on a GPU."""
    rows = Rows.of(packed.blocks, cos.device)
    # Padding within a block may stand behind the last position.
    positions = rows.positions.clamp_max(packed.reach - 1)
    return partial(flash_attention, cos=cos[positions], sin=sin[positions], rows=rows)


def _norm(module: Any, states: Tensor) -> Tensor:
    return rms_norm(states, module.weight, eps=module.variance_epsilon)


def can_pack(model: PreTrainedModel) -> bool:
    """Whether `PackedDecoder` computes what ``model`` does, and faster.

    It is for CPUs that multiply in the model's dtype at speed and for GPUs whose fused attention
    takes rows of any lengths, and knows decoders of Mistral's form: heads rotated by angles of the
    position alone, full causal attention, SwiGLU, no biases.
    """
    layers, config = model.model.layers, model.config
    linears = [m.frozen for m in layers.modules() if isinstance(m, AdaptedLinear)]
    return (
        _is_fast(model)
        and all(type(layer) in {MistralDecoderLayer, LlamaDecoderLayer} for layer in layers)
        and config.hidden_act == "silu"
        and model.model.rotary_emb.rope_type not in ANGLES_BY_LENGTH
        and all(linear.bias is None for linear in linears)
        and getattr(config, "sliding_window", None) is None
    )


def _is_fast(model: PreTrainedModel) -> bool:
    """Whether the device has what is needed in the model's dtype."""
    if model.device.type == "cuda":
        return flash_attends(model.device, model.dtype, model.model.layers[0].self_attn.head_dim)
    return model.device.type == "cpu" and (model.dtype != torch.bfloat16 or has_bf16_units("cpu"))
