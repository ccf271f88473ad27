"""Products of a few rows with a 4-bit weight on a GPU, the weight read once and never unpacked.

bitsandbytes unpacks a weight to bf16 where there are more than a few rows: four times its bytes
are written and read again, for each token that is drawn. Here codes become bf16 in registers, by
byte permutations, on their way from memory to the matrix units. In the same launch the rows' LoRA
update and the residual are added.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor, nn

from rlhf_forge.backbone.nf4_codes import MOST_ROWS, UNPACK

# Weights that share a factor.
BLOCK = 64
# A wider update, of all roles together, takes more shared memory than some cards have.
MOST_RANK = 512
# Shared memory, in bytes, with room for five stages of the widest tile: they take 120 KiB, and a
# consumer's card has 100.
ROOMY = 128 * 1024
UNPACK_CODES: Any = tl.constexpr(UNPACK)


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    x, packed, factors, code, group_factors, offset, narrow, up, residual, out,
    rows, outer, inner, narrow_stride, out_stride, rank,
    row_tile: tl.constexpr, outer_tile: tl.constexpr, inner_tile: tl.constexpr,
    rank_tile: tl.constexpr, adds: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * outer_tile + tl.arange(0, outer_tile)
    m = tl.program_id(1) * row_tile + tl.arange(0, row_tile)
    inside = (m < rows)[:, None]
    byte, block = tl.arange(0, inner_tile // 2), tl.arange(0, inner_tile // 64)
    weights = packed + n.to(tl.int64)[:, None] * (inner // 2) + byte[None, :]
    pairs = x.to(tl.pointer_type(tl.int32)) + m[:, None] * (inner // 2) + byte[None, :]
    blocks = n[:, None] * (inner // 64) + block[None, :]
    shift = tl.load(offset)
    sums = tl.zeros((row_tile, outer_tile), tl.float32)
    for step in range(inner // inner_tile):
        codes = tl.load(weights + step * (inner_tile // 2))
        pair = tl.load(pairs + step * (inner_tile // 2), mask=inside, other=0)
        place = blocks + step * (inner_tile // 64)
        factor = tl.load(code + tl.load(factors + place).to(tl.int32))
        factor = factor * tl.load(group_factors + place // 256) + shift
        factor = tl.broadcast_to(factor[:, :, None], (outer_tile, inner_tile // 64, 32))
        factor = factor.reshape(outer_tile, inner_tile // 2).to(tl.bfloat16)
        even, odd = tl.inline_asm_elementwise(
            UNPACK_CODES,
            "=r,=r,=r,=r,r",
            [codes],
            dtype=(tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=4,
        )
        first = (pair & 0xFFFF).to(tl.int16).to(tl.bfloat16, bitcast=True)
        second = (pair >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
        sums = tl.dot(first, tl.trans(even * factor), sums)
        sums = tl.dot(second, tl.trans(odd * factor), sums)
    if rank_tile > 0:
        r = tl.arange(0, rank_tile)
        ups = tl.load(up + n[:, None] * rank + r[None, :], mask=(r < rank)[None, :], other=0.0)
        own = narrow + m[:, None] * narrow_stride + r[None, :]
        own = tl.load(own, mask=inside & (r < rank)[None, :], other=0.0)
        sums = tl.dot(own, tl.trans(ups), sums)
    if adds:
        sums += tl.load(residual + m[:, None] * outer + n[None, :], mask=inside, other=0.0)
    tl.store(out + m[:, None] * out_stride + n[None, :], sums.to(tl.bfloat16), mask=inside)


def few_rows(x: Tensor, linear: nn.Linear, rank: int) -> bool:
    """Whether `nf4_product` computes ``x`` [rows, inner] times this 4-bit layer, and faster.

    Args:
        x: Rows.
        linear: 4-bit.
        rank: Of the update, 0 for none.
    """
    weight: Any = linear.weight
    state = weight.quant_state
    plain = state.quant_type == "nf4" and state.nested and state.blocksize == BLOCK
    fits = linear.out_features % 128 == linear.in_features % BLOCK == 0 and len(x) <= MOST_ROWS
    return plain and fits and rank <= MOST_RANK and x.dtype == torch.bfloat16


def _tile(rows: int, outer: int, inner: int, *, shared: int) -> dict[str, int]:
    """By a sweep on an H100 that `benchmarks/nf4_product.py`, not run there yet, would repeat.

    Args:
        rows: Of a tile.
        outer: Outputs.
        inner: Inputs.
        shared: Memory of one of the GPU's multiprocessors, in bytes; 100 KiB do.
    """
    wide = outer >= 8192
    if wide and rows > 32:
        tile = {"outer_tile": 128, "inner_tile": 128, "num_stages": 5 if shared >= ROOMY else 4}
    else:
        tile = {
            "outer_tile": 64 if wide else 32 if outer > 2048 else 16,
            "inner_tile": 256,
            "num_stages": 3,
        }
    while inner % tile["inner_tile"]:
        tile["inner_tile"] //= 2
    return tile


def nf4_product(
    x: Float[Tensor, "rows inner"],
    linear: nn.Linear,
    *,
    narrow: Float[Tensor, "rows rank"] | None,
    up: Float[Tensor, "outer rank"] | None,
    residual: Float[Tensor, "rows outer"] | None,
    out: Float[Tensor, "rows outer"],
) -> None:
    """``out = residual + x W^T + narrow up^T``, bf16, summed in float32.

    Args:
        x: Rows, contiguous.
        linear: Holds W in NF4 with double quantisation.
        narrow: Rows' products with A, neighbours in a row side by side; None: no update.
        up: B, contiguous.
        residual: Contiguous; None: nothing is added.
        out: Neighbours in a row side by side.
    """
    weight: Any = linear.weight
    state = weight.quant_state
    outer, inner = linear.out_features, linear.in_features
    rows = max(16, min(64, triton.next_power_of_2(len(x))))
    rank = 0 if up is None else up.shape[1]
    shared = torch.cuda.get_device_properties(x.device).shared_memory_per_multiprocessor
    tile = _tile(rows, outer, inner, shared=shared)
    _kernel[(outer // tile["outer_tile"], triton.cdiv(len(x), rows))](
        x, weight.data, state.absmax, state.state2.code, state.state2.absmax, state.offset,
        narrow, up, residual, out,
        len(x), outer, inner, 0 if narrow is None else narrow.stride(0), out.stride(0), rank,
        row_tile=rows, rank_tile=0 if not rank else max(16, triton.next_power_of_2(rank)),
        adds=residual is not None, num_warps=4, **tile,
    )  # fmt: skip
