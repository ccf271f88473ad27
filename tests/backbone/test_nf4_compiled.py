"""The fused 4-bit product compiled for GPUs that are not here: all that Triton needs is itself."""

from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="needs Triton, which comes with torch for GPUs")

pytestmark = pytest.mark.slow
# Shared memory in KiB that a multiprocessor has, and one block may take: 1 less.
CARDS = {80: 164, 86: 100, 89: 100, 90: 228, 120: 100}
POINTERS = {
    **dict.fromkeys(("x", "narrow", "up", "residual", "out"), "*bf16"),
    **dict.fromkeys(("packed", "factors"), "*u8"),
    **dict.fromkeys(("code", "group_factors", "offset"), "*fp32"),
}


def shared_bytes(card: int, *, rows: int, outer: int, inner: int, rank: int) -> int:
    """What a block takes of a card's shared memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from rlhf_forge.backbone import nf4_kernel

    kernel: Any = nf4_kernel._kernel
    tile = nf4_kernel._tile(rows, outer, inner, shared=CARDS[card] * 1024)
    stages = tile.pop("num_stages")
    constants = {"row_tile": rows, "rank_tile": rank, "adds": True, **tile}
    signature = {
        name: "constexpr" if name in constants else POINTERS.get(name, "i32")
        for name in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name in POINTERS or name in {"outer", "inner"}
    }
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    compiled = triton.compile(
        ASTSource(kernel, signature, places, aligned),
        target=GPUTarget("cuda", card, 32),
        options={"num_warps": 4, "num_stages": stages},
    )
    return int(compiled.metadata.shared)


@pytest.mark.parametrize("card", CARDS)
def test_the_widest_tiles_fit_the_cards_shared_memory(card: int) -> None:
    from rlhf_forge.backbone.nf4_kernel import MOST_RANK

    for outer, inner in ((14336, 4096), (4096, 14336)):
        taken = shared_bytes(card, rows=64, outer=outer, inner=inner, rank=MOST_RANK)
        assert taken <= (CARDS[card] - 1) * 1024
