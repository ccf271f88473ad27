import pytest
import torch
from torch import Tensor

from rlhf_forge.backbone.packing import pack, to_the_left
from tests import tiny

WANTED = tiny.spans((4, 9), (5, 14), (1, 6), (10, 11))


def test_every_wanted_token_and_all_before_it_in_its_row_are_packed_in_their_order() -> None:
    packed = pack(WANTED)
    places = packed.source[packed.wanted]
    assert torch.equal(places, WANTED.flatten().nonzero().squeeze(1))
    assert torch.equal(packed.positions, packed.source % 14)
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
            packed.positions[block.span], torch.arange(block.width).repeat(block.rows)
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
