"""Causal attention over packed rows: rotation, two products and a softmax for each block of rows.

On a CPU the backward of torch's fused attention is slower than plain products, and of those the
usual chain keeps half a dozen tensors that can be had again for nothing. Grouped queries share
their keys: a product for each key head, with its group of query heads in the row dimension.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from rlhf_forge.backbone.packing import Block


@dataclass(frozen=True)
class Heads:
    """Shape of an attention layer.

    Attributes:
        queries: Query heads.
        keys: Key heads, and as many value heads; they divide the query heads.
        width: Of a head.
        scaling: Factor on the logits.
    """

    queries: int
    keys: int
    width: int
    scaling: float


def packed_attention(
    qkv: Float[Tensor, "packed all_heads"],
    cos: Float[Tensor, "packed half"],
    sin: Float[Tensor, "packed half"],
    blocks: tuple[Block, ...],
    heads: Heads,
) -> Float[Tensor, "packed query_heads"]:
    """Softmax attention of every token to those before it in its row, and to itself.

    Args:
        qkv: Query, key and value heads of every token, side by side, not yet rotated.
        cos: Cosines of the rotation of every token; both halves of a head have the same.
        sin: Sines.
        blocks: Of the packed rows.
        heads: The layer's shape.
    """
    out: Tensor = _Attention.apply(qkv, cos, sin, blocks, heads)  # type: ignore[no-untyped-call]
    return out


class _Attention(torch.autograd.Function):
    """Keeps rotated queries and keys, values, and the weights."""

    @staticmethod
    @override
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, blocks: tuple[Block, ...], heads: Heads
    ) -> Tensor:
        mixed = qkv.new_empty(len(qkv), heads.queries * heads.width)
        kept: list[Tensor] = []
        for block in blocks:
            angles = _angles(cos, block), _angles(sin, block)
            query, key, value = _by_head(qkv[block.span], block, heads)
            query, key = _rotated(query, *angles), _rotated(key, *angles)
            query, key, value = _batched(query), key.flatten(0, 1), value.flatten(0, 1)
            weights = _softmax(query, key, block, heads)
            out = _by_head(mixed[block.span], block, heads)[0]
            out.copy_((weights @ value).view(out.shape))
            kept += [query, key, value, weights]
        ctx.blocks, ctx.heads = blocks, heads
        ctx.save_for_backward(cos, sin, *kept)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:  # type: ignore[explicit-override] # torch's decorator hides it
        heads, (cos, sin, *kept) = ctx.heads, ctx.saved_tensors
        total = (heads.queries + 2 * heads.keys) * heads.width
        grad_qkv = grads[0].new_empty(len(grads[0]), total)
        for place, block in enumerate(ctx.blocks):
            query, key, value, weights = kept[4 * place : 4 * place + 4]
            grad = _batched(_by_head(grads[0][block.span], block, heads)[0])
            grad_weights = grad @ value.transpose(1, 2)
            grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_logits.mul_(heads.scaling)
            angles = _angles(cos, block), _angles(sin, block).neg()
            of_query, of_key, of_value = _by_head(grad_qkv[block.span], block, heads)
            _rotated((grad_logits @ key).view(of_query.shape), *angles, out=of_query)
            _rotated((grad_logits.transpose(1, 2) @ query).view(of_key.shape), *angles, out=of_key)
            of_value.copy_((weights.transpose(1, 2) @ grad).view(of_value.shape))
        return grad_qkv, None, None, None, None


def _by_head(x: Tensor, block: Block, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Views of queries [rows, keys, group, width, head], keys and values [rows, keys, width, head].

    Of queries alone the other two are empty.
    """
    split = x.view(block.rows, block.width, -1, heads.width).transpose(1, 2)
    query = split[:, : heads.queries].view(block.rows, heads.keys, -1, *split.shape[2:])
    key = split[:, heads.queries : heads.queries + heads.keys]
    return query, key, split[:, heads.queries + heads.keys :]


def _batched(query: Tensor) -> Tensor:
    """Each key head's queries as the rows of one matrix: [rows * keys, group * width, head]."""
    return query.flatten(2, 3).flatten(0, 1)


def _angles(table: Tensor, block: Block) -> Tensor:
    """A block's first row: all have the same positions."""
    return table[block.start : block.start + block.width]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None = None) -> Tensor:
    """Heads [..., width, head] turned by each token's angles, its halves as the coordinates."""
    out = torch.empty(x.shape, dtype=x.dtype) if out is None else out
    (left, right), (to_left, to_right) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(left, cos, out=to_left).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=to_right).addcmul_(left, sin)
    return out


def _softmax(query: Tensor, key: Tensor, block: Block, heads: Heads) -> Tensor:
    """Weights of each query over the keys of its row up to itself."""
    logits = (query * heads.scaling) @ key.transpose(1, 2)
    ahead = torch.full((block.width, block.width), -torch.inf, dtype=logits.dtype).triu_(1)
    logits.view(-1, block.width, block.width).add_(ahead)
    return logits.softmax(-1)
