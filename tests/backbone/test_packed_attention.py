import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from rlhf_forge.backbone.packed_attention import Heads, packed_attention
from rlhf_forge.backbone.packing import Block

HEADS = Heads(queries=4, keys=2, width=6, scaling=0.4)
# Two rows of five tokens, one of three; and two that go on from four and from two of the second's,
# the latter with a token of padding.
BLOCKS = (
    Block(0, 2, 5, 5),
    Block(10, 1, 3, 3),
    Block(13, 2, 3, 7, (slice(5, 9), slice(5, 7))),
)
ROWS = [[*range(5)], [*range(5, 10)], [*range(10, 13)], [5, 6, 7, 8, 13, 14, 15], [5, 6, 16, 17]]
TOKENS = 19
PADDING = 18


def case(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    qkv = torch.randn(TOKENS, 8 * HEADS.width, dtype=dtype, requires_grad=True)
    angles = torch.arange(7)[:, None] * torch.tensor([1.0, 0.3, 0.1], dtype=dtype)
    return qkv, angles.cos(), angles.sin()


def by_hand(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Row by row, head by head, prefixes once for each row."""
    mixed = torch.zeros(TOKENS, 24, dtype=qkv.dtype)
    for row in ROWS:
        split = qkv[row].view(len(row), 8, HEADS.width)
        left, right = split.chunk(2, dim=-1)
        c, s = cos[: len(row), None], sin[: len(row), None]
        turned = torch.cat([left * c - right * s, right * c + left * s], dim=-1)
        query, key, value = turned[:, :4], turned[:, 4:6], split[:, 6:]
        key, value = (x.repeat_interleave(2, dim=1) for x in (key, value))
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=HEADS.scaling)
        mixed[row] = out.transpose(0, 1).flatten(1)
    return mixed


def test_every_row_of_every_block_attends_to_its_prefix_and_itself_alone_and_backwards() -> None:
    assert_close(packed_attention(*case(), BLOCKS, HEADS).shape, torch.Size([TOKENS, 24]))
    qkv, cos, sin = case()
    ours, theirs = packed_attention(qkv, cos, sin, BLOCKS, HEADS), by_hand(qkv, cos, sin)
    assert_close(ours[:PADDING], theirs[:PADDING])


def test_its_gradient_is_that_of_the_formula() -> None:
    qkv, cos, sin = case()
    assert torch.autograd.gradcheck(
        lambda qkv: packed_attention(qkv, cos, sin, BLOCKS, HEADS), (qkv,)
    )


def test_what_stands_behind_the_end_of_a_row_has_no_say_in_it() -> None:
    qkv, cos, sin = case()
    spoilt = qkv.detach().clone()
    spoilt[PADDING] = 100.0
    plain, other = (packed_attention(x, cos, sin, BLOCKS, HEADS) for x in (qkv, spoilt))
    assert torch.equal(plain[:PADDING], other[:PADDING])
