import pytest
import torch
from torch import Tensor

from rlhf_forge.backbone.packing import Packed, to_the_left
from rlhf_forge.backbone.packing import pack as pack_tokens
from tests import tiny

WANTED = tiny.spans((4, 9), (5, 14), (1, 6), (10, 11))


def pack(wanted: Tensor) -> Packed:
    """Of rows of which no two begin alike."""
    rows, width = wanted.shape
    return pack_tokens(torch.arange(rows * width).view(rows, width), wanted)


def test_every_wanted_token_and_all_before_it_in_its_row_are_packed_in_their_order() -> None:
    packed = pack(WANTED)
    places = packed.source[packed.wanted]
    assert torch.equal(places, WANTED.flatten().nonzero().squeeze(1))
    for place, source in zip(packed.wanted.tolist(), places.tolist(), strict=True):
        first = place - source % 14
        assert packed.source[first : place + 1].tolist() == [
            *range(source - source % 14, source + 1)
        ]


def test_blocks_lie_behind_each_other_and_hold_all_packed_tokens() -> None:
    packed = pack(WANTED)
    start = 0
    for block in packed.blocks:
        assert block.start == start
        start = block.span.stop
        assert torch.equal(
            packed.source[block.span] % 14, torch.arange(block.width).repeat(block.rows)
        )
    assert start == len(packed.source)


def wanted_to(*ends: int) -> Tensor:
    return tiny.spans(*((end - 1, end) for end in ends))


@pytest.mark.parametrize(
    ("ends", "blocks"),
    [
        ((100, 100, 100), [(3, 100)]),
        ((100, 10, 98), [(2, 100), (1, 10)]),
        ((100, 85, 100), [(3, 100)]),
        ((100, 84, 100), [(2, 100), (1, 84)]),
    ],
)
def test_rows_share_a_block_where_its_padding_costs_less_than_another(
    ends: tuple[int, ...], blocks: list[tuple[int, int]]
) -> None:
    assert [(block.rows, block.width) for block in pack(wanted_to(*ends)).blocks] == blocks


def test_a_row_without_a_wanted_token_is_left_out() -> None:
    wanted = wanted_to(5, 9)
    wanted[0] = False
    packed = pack(wanted)
    assert packed.source.tolist() == [*range(9, 18)]
    assert packed.wanted.tolist() == [8]
    nothing = pack(torch.zeros(2, 4, dtype=torch.bool))
    assert nothing.blocks == ()
    assert len(nothing.source) == len(nothing.wanted) == 0


def test_a_token_is_foreseen_one_to_its_left() -> None:
    mask = torch.tensor([[False, True, True, False], [True, False, False, True]])
    assert to_the_left(mask).tolist() == [[True, True, False, False], [False, False, True, False]]


def test_rows_that_begin_alike_have_their_prefix_once_and_every_wanted_token() -> None:
    tokens = tiny.rows(20, 18, 20, 20, 15)
    tokens[1, :12], tokens[1, 12] = tokens[0, :12], tokens[0, 12] - 1
    tokens[2] = tokens[0]
    tokens[4, :15] = tokens[3, :15]
    wanted = tiny.spans((10, 20), (5, 18), (3, 7), (14, 20), (10, 15))
    packed = pack_tokens(tokens, wanted)
    assert packed.shared == 12 + 7 + 15
    whole, going_on = packed.blocks
    assert (whole.rows, whole.width, whole.prefixes) == (2, 20, ())
    assert (going_on.rows, going_on.width, going_on.reach, going_on.offsets) == (1, 6, 18, [12])
    assert packed.source[going_on.prefixes[0]].tolist() == [*range(12)]
    assert packed.source[going_on.span].tolist() == [*range(20 + 12, 20 + 18)]
    assert torch.equal(tokens.flatten()[packed.source[packed.wanted]], tokens[wanted])
    assert torch.equal(packed.source[packed.wanted] % 20, wanted.nonzero()[:, 1])
