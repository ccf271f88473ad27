import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from rlhf_forge.backbone.packed_attention import Heads, packed_attention
from rlhf_forge.backbone.packing import Block

HEADS = Heads(queries=4, keys=2, width=6, scaling=0.4)
BLOCKS = (Block(0, 2, 5), Block(10, 1, 3))
TOKENS = 13
POSITIONS = torch.tensor([*range(5), *range(5), *range(3)])


def case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    qkv = torch.randn(TOKENS, 8 * HEADS.width, dtype=dtype, requires_grad=True)
    angles = POSITIONS[:, None] * torch.tensor([1.0, 0.3, 0.1], dtype=dtype)
    return qkv, angles.cos(), angles.sin()


def by_hand(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Row by row, head by head."""
    split = qkv.view(TOKENS, 8, HEADS.width)
    left, right = split.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    turned = torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
    rows = []
    for start, end in ((0, 5), (5, 10), (10, 13)):
        query, key = turned[start:end, :4], turned[start:end, 4:6]
        value = split[start:end, 6:]
        key, value = (x.repeat_interleave(2, dim=1) for x in (key, value))
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=HEADS.scaling)
        rows.append(out.transpose(0, 1).flatten(1))
    return torch.cat(rows)


def test_every_row_of_every_block_attends_to_itself_alone_and_backwards() -> None:
    assert_close(packed_attention(*case(), BLOCKS, HEADS).shape, torch.Size([TOKENS, 24]))
    qkv, cos, sin = case()
    assert_close(packed_attention(qkv, cos, sin, BLOCKS, HEADS), by_hand(qkv, cos, sin))


def test_its_gradient_is_that_of_the_formula() -> None:
    qkv, cos, sin = case()
    assert torch.autograd.gradcheck(
        lambda qkv: packed_attention(qkv, cos, sin, BLOCKS, HEADS), (qkv,)
    )
