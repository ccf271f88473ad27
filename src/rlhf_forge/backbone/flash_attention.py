"""Causal attention over packed rows on a GPU: one fused kernel takes rows of any lengths.

Queries lie as they are packed. The keys and values of a row that goes on from a prefix are gathered
with the prefix before them; the kernel lets a row's last query see its last key. What it gives
depends neither on a row's neighbours nor on whether gradients are asked for, and its backward adds
in a fixed order, so that a run can be repeated bit for bit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from rlhf_forge.backbone.packed_attention import Heads, rotated
from rlhf_forge.backbone.packing import Block

# Packed tokens, no one twice, and where a row sees each of them among the keys.
Use = tuple[Int[Tensor, "tokens"], Int[Tensor, "tokens"]]


@dataclass(frozen=True)
class Rows:
    """Where the rows of a packed batch lie: the same for all layers.

    Attributes:
        positions: Of each packed token in its row.
        query_ends: Where each row's queries begin, and the last one's end: int32, from 0.
        key_ends: The same of its keys, those of its prefix before its own.
        most: Queries and keys of a row at most.
        seen: Packed place of each key; None: keys lie as queries do, as no row has a prefix.
        uses: For each packed token its keys: the first of every token, then the second of those
            that have one, ...
    """

    positions: Int[Tensor, "packed"]
    query_ends: Int[Tensor, "bounds"]
    key_ends: Int[Tensor, "bounds"]
    most: tuple[int, int]
    seen: Int[Tensor, "keys"] | None
    uses: tuple[Use, ...]

    @classmethod
    def of(cls, blocks: Sequence[Block], device: torch.device) -> Self:
        """Planned on the CPU; ``device`` gets it."""
        rows = [row for block in blocks for row in _rows_of(block)]
        own = [len(places) for _, places in rows]
        offsets = [0 if prefix is None else len(prefix) for prefix, _ in rows]
        positions = [torch.arange(first, first + n) for first, n in zip(offsets, own, strict=True)]
        keys = [first + n for first, n in zip(offsets, own, strict=True)]
        seen = [torch.arange(r.start, r.stop) for row in rows for r in row if r is not None]
        shares = any(offsets)
        return cls(
            positions=_joined(positions).to(device),
            query_ends=_ends(own).to(device),
            key_ends=_ends(keys).to(device),
            most=(max(own, default=0), max(keys, default=0)),
            seen=_joined(seen).to(device) if shares else None,
            uses=tuple(_uses(_joined(seen), device)) if shares else (),
        )


# Numbers of a head at most: not every card has a backward for more.
WIDEST_HEAD = 192


def flash_takes(width: int) -> bool:
    """Whether the kernel takes heads of ``width`` numbers: multiples of 8."""
    return width % 8 == 0 and width <= WIDEST_HEAD


def flash_attends(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether a CUDA device has the kernel for ``dtype`` and heads of ``width`` numbers.

    It is there for bf16 and fp16, from Ampere on.
    """
    return (
        dtype in {torch.bfloat16, torch.float16}
        and flash_takes(width)
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def flash_attention(
    qkv: Float[Tensor, "packed all_heads"],
    cos: Float[Tensor, "packed half"],
    sin: Float[Tensor, "packed half"],
    rows: Rows,
    heads: Heads,
) -> Float[Tensor, "packed query_heads"]:
    """As `rlhf_forge.backbone.packed_attention`, but that ``cos`` and ``sin`` are of each token.

    Args:
        qkv: Query, key and value heads of every token, side by side, not yet rotated; bf16 or fp16.
        cos: Cosines of each token's rotation; both halves of a head have the same.
        sin: Sines.
        rows: Of the packed batch.
        heads: The layer's shape.
    """
    out: Tensor = _FlashAttention.apply(qkv, cos, sin, rows, heads)  # type: ignore[no-untyped-call]
    return out


class _FlashAttention(torch.autograd.Function):
    """Keeps rotated queries and keys, values, the output, and a number a query and head."""

    @staticmethod
    @override
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, rows: Rows, heads: Heads
    ) -> Tensor:
        ctx.rows, ctx.heads = rows, heads
        if not len(qkv):
            return qkv.new_zeros(0, heads.queries * heads.width)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        turned = torch.empty_like(qkv)
        split, out = (x.view(len(x), -1, heads.width) for x in (qkv, turned))
        last = heads.queries + heads.keys
        rotated(split[:, :last], cos, sin, out=out[:, :last])
        out[:, last:] = split[:, last:]
        mixed, *kept = forward_kernel(*_by_head(out, rows, heads), rows, heads.scaling)
        ctx.save_for_backward(cos, sin, turned, mixed, *kept)
        return mixed.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:  # type: ignore[explicit-override] # torch's decorator hides it
        rows, heads = ctx.rows, ctx.heads
        if not len(grads[0]):
            total = (heads.queries + 2 * heads.keys) * heads.width
            return grads[0].new_zeros(0, total), None, None, None, None
        cos, sin, turned, mixed, *kept = ctx.saved_tensors
        grad_qkv, back = torch.empty_like(turned), -sin
        turned, out = (x.view(len(x), -1, heads.width) for x in (turned, grad_qkv))
        grad = grads[0].view(mixed.shape)
        inputs = _by_head(turned, rows, heads)
        of_query, *of_keys = backward_kernel(grad, *inputs, mixed, kept, rows, heads.scaling)
        of_key, of_value = (_summed(grad, rows.uses) for grad in of_keys)
        first, last = heads.queries, heads.queries + heads.keys
        rotated(of_query, cos, back, out=out[:, :first])
        rotated(of_key, cos, back, out=out[:, first:last])
        out[:, last:] = of_value
        return grad_qkv, None, None, None, None


def _by_head(turned: Tensor, rows: Rows, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [packed, head, width], and of all rows behind each other keys and values."""
    pairs = turned[:, heads.queries :]
    if rows.seen is not None:
        pairs = pairs.index_select(0, rows.seen)
    return turned[:, : heads.queries], pairs[:, : heads.keys], pairs[:, heads.keys :]


def _summed(grad: Tensor, uses: Sequence[Use]) -> Tensor:
    """Of each packed token the sum over its keys; of no two at once, so in a fixed order."""
    if not uses:
        return grad
    (_, places), *more = uses
    total = grad.index_select(0, places)
    for tokens, others in more:
        total.index_add_(0, tokens, grad.index_select(0, others))
    return total


def _rows_of(block: Block) -> Iterator[tuple[range | None, range]]:
    """Packed places of each row's prefix, if it has one, and of its own tokens."""
    for row in range(block.rows):
        start = block.start + row * block.width
        prefix = block.prefixes[row] if block.prefixes else None
        places = None if prefix is None else range(prefix.start, prefix.stop)
        yield places, range(start, start + block.width)


def _uses(seen: Int[Tensor, "keys"], device: torch.device) -> Iterator[Use]:
    tokens, places = seen.sort(stable=True)
    # As each row's own tokens are keys, every token is there, and begins where the next one does.
    begins = torch.searchsorted(tokens, torch.arange(int(tokens[-1]) + 1))
    number = torch.arange(len(tokens)) - begins[tokens]
    for nth in range(int(number.max()) + 1):
        chosen = number == nth
        yield tokens[chosen].to(device), places[chosen].to(device)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.long), *parts])


def _ends(lengths: Sequence[int]) -> Int[Tensor, "bounds"]:
    return torch.tensor([0, *lengths]).cumsum(0).int()


# -- the kernel -----------------------------------------------------------------------------------


def forward_kernel(
    query: Tensor, key: Tensor, value: Tensor, rows: Rows, scaling: float
) -> tuple[Tensor, ...]:
    """What each query sees, and what the backward needs besides.

    `torch.nn.attention.varlen` calls the same kernel, but under another signature in each release.
    """
    queries, keys = rows.most
    # A row of one query is another case to the kernel, whose normaliser has another shape.
    found = torch.ops.aten._flash_attention_forward(
        query, key, value, rows.query_ends, rows.key_ends, max(queries, 2), keys, 0.0, True, False,
        scale=scaling,
    )  # fmt: skip
    return tuple(found[:4])


def backward_kernel(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    kept: Sequence[Tensor],
    rows: Rows,
    scaling: float,
) -> tuple[Tensor, ...]:
    """Gradients of queries, keys and values; ``kept`` is what the forward gave besides."""
    queries, keys = rows.most
    normaliser, *random = kept
    with _fixed_order():
        found = torch.ops.aten._flash_attention_backward(
            grad, query, key, value, out, normaliser, rows.query_ends, rows.key_ends,
            max(queries, 2), keys, 0.0, True, *random, scale=scaling,
        )  # fmt: skip
    return tuple(found)


@contextmanager
def _fixed_order() -> Iterator[None]:
    """Let the kernel add in a fixed order, which it does only if all of torch is told to."""
    deterministic: Any = torch.utils.deterministic
    mode, fills = torch.get_deterministic_debug_mode(), deterministic.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")
    deterministic.fill_uninitialized_memory = False  # the kernel writes all that it allocates
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        deterministic.fill_uninitialized_memory = fills
