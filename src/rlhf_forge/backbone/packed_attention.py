"""Causal attention over packed rows: rotation, two products and a softmax for each block of rows.

On a CPU the backward of torch's fused attention is slower than plain products, and of those the
usual chain keeps half a dozen tensors that can be had again for nothing. Grouped queries share
their keys: a product for each key head, with its group of query heads in the row dimension. Rows
that go on from a prefix get its keys and values in front of their own.
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
    cos: Float[Tensor, "reach half"],
    sin: Float[Tensor, "reach half"],
    blocks: tuple[Block, ...],
    heads: Heads,
) -> Float[Tensor, "packed query_heads"]:
    """Softmax attention of every token to those before it in its row, and to itself.

    A row's prefix is a part of it: its gradients come from all rows that go on from it.

    Args:
        qkv: Query, key and value heads of every token, side by side, not yet rotated.
        cos: Cosines of the rotation at every position; both halves of a head have the same.
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
            query, key, value = _by_head(qkv[block.span], block, heads)
            if block.prefixes:
                key, value = _pair(_with_prefixes(qkv, block, heads), heads)
            query = rotated(query, *_query_angles(cos, sin, block))
            key = rotated(key, cos[: block.reach], sin[: block.reach])
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
        grad_qkv, back = grads[0].new_empty(len(grads[0]), total), -sin
        for place, block in enumerate(ctx.blocks):
            query, key, value, weights = kept[4 * place : 4 * place + 4]
            grad = _batched(_by_head(grads[0][block.span], block, heads)[0])
            grad_weights = grad @ value.transpose(1, 2)
            grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_logits.mul_(heads.scaling)
            of_query, of_key, of_value = _by_head(grad_qkv[block.span], block, heads)
            rows = None
            if block.prefixes:
                rows = grad_qkv.new_empty(block.rows, block.reach, 2 * heads.keys * heads.width)
                of_key, of_value = _pair(rows, heads)
            angles = _query_angles(cos, back, block)
            rotated((grad_logits @ key).view(of_query.shape), *angles, out=of_query)
            angles = cos[: block.reach], back[: block.reach]
            rotated((grad_logits.transpose(1, 2) @ query).view(of_key.shape), *angles, out=of_key)
            of_value.copy_((weights.transpose(1, 2) @ grad).view(of_value.shape))
            if rows is not None:
                _add_to_prefixes(grad_qkv, rows, block, heads)
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


def _query_angles(cos: Tensor, sin: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """Angles of a block's own tokens, by row where not all rows have the same positions."""
    if not block.prefixes:
        return cos[: block.width], sin[: block.width]
    positions = torch.tensor(block.offsets)[:, None] + torch.arange(block.width)
    positions.clamp_(max=block.reach - 1)  # of padding
    return cos[positions][:, None, None], sin[positions][:, None, None]


def _with_prefixes(qkv: Tensor, block: Block, heads: Heads) -> Tensor:
    """Keys and values of each row's prefix and its own: [rows, reach, key and value]."""
    packed = qkv[:, heads.queries * heads.width :]
    _, places = block.seen
    return packed.index_select(0, places.flatten()).view(*places.shape, -1)


def _add_to_prefixes(grad_qkv: Tensor, rows: Tensor, block: Block, heads: Heads) -> None:
    """The backward of `_with_prefixes`; those of the whole rows, which come first, are there."""
    packed = grad_qkv[:, heads.queries * heads.width :]
    in_prefix, places = block.seen
    packed.index_add_(0, places[in_prefix], rows[in_prefix])
    # Nothing sees what is padded behind the last position.
    columns = torch.tensor(block.offsets)[:, None] + torch.arange(block.width)
    numbers = torch.arange(block.rows)[:, None]
    own = rows[numbers, columns.clamp(max=block.reach - 1)]
    own.masked_fill_((columns >= block.reach).unsqueeze(-1), 0.0)
    packed[block.span] = own.flatten(0, 1)


def _pair(rows: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
    """Views of keys and values, [rows, keys, reach, head] each."""
    split = rows.view(*rows.shape[:2], 2 * heads.keys, heads.width).transpose(1, 2)
    return split[:, : heads.keys], split[:, heads.keys :]


def rotated(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None = None) -> Tensor:
    """Heads [..., head] turned by each token's angles, its halves as the coordinates."""
    out = x.new_empty(x.shape) if out is None else out
    (left, right), (to_left, to_right) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(left, cos, out=to_left).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=to_right).addcmul_(left, sin)
    return out


def _softmax(query: Tensor, key: Tensor, block: Block, heads: Heads) -> Tensor:
    """Weights of each query over the keys of its row up to itself."""
    logits = (query * heads.scaling) @ key.transpose(1, 2)
    if not block.prefixes:
        ahead = torch.full((block.width, block.width), -torch.inf, dtype=logits.dtype).triu_(1)
        logits.view(-1, block.width, block.width).add_(ahead)
        return logits.softmax(-1)
    last = torch.tensor(block.offsets)[:, None] + torch.arange(block.width)
    hidden = torch.arange(block.reach) > last[:, None, :, None]
    logits.view(block.rows, -1, block.width, block.reach).masked_fill_(hidden, -torch.inf)
    return logits.softmax(-1)
