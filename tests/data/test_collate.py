from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric.utilities import move_data_to_device

from rlhf_forge.data.collate import (
    CUT_COST,
    PairBatch,
    PromptBatch,
    SequenceBatch,
    collate_demonstrations,
    collate_pairs,
    collate_prompts,
    micro_batches,
    pair_tokens,
    take,
)
from rlhf_forge.data.records import Demonstration, Pair, Prompt
from rlhf_forge.data.tokenize import DemonstrationExample, PairExample, PromptExample


def demonstration(*tokens: int) -> DemonstrationExample:
    targets = [number > 0 for number in range(len(tokens))]
    return DemonstrationExample(list(tokens), targets, Demonstration([], [], "f:1", {}))


def pair(chosen: list[int], rejected: list[int]) -> PairExample:
    first, second = ([False, *[True] * (len(side) - 1)] for side in (chosen, rejected))
    return PairExample(chosen, rejected, first, second, Pair([], [], [], "f:1", {}))


def prompt(*tokens: int) -> PromptExample:
    return PromptExample(list(tokens), Prompt([], f"f:{tokens[0]}", {}))


Batch = SequenceBatch | PairBatch | PromptBatch

SEQUENCES = collate_demonstrations(
    [(7, demonstration(5, 6)), (8, demonstration(5, 0, 2)), (9, demonstration(4))]
)
PAIRS = collate_pairs([(3, pair([1, 2], [1, 3, 4])), (4, pair([1, 5, 6, 7], [1]))])
PROMPTS = collate_prompts([(1, prompt(5, 6)), (2, prompt(7)), (3, prompt(8, 0, 9))])


def test_sequences_are_padded_on_the_right() -> None:
    assert SEQUENCES.tokens.tolist() == [[5, 6, 0], [5, 0, 2], [4, 0, 0]]
    assert SEQUENCES.tokens.dtype == torch.int64
    assert SEQUENCES.targets.tolist() == [
        [False, True, False],
        [False, True, True],
        [False, False, False],
    ]
    assert SEQUENCES.positions.tolist() == [7, 8, 9]


def test_masks_come_from_lengths_where_the_padding_token_is_a_real_one() -> None:
    assert SEQUENCES.mask.tolist()[1] == [True, True, True]
    assert PROMPTS.mask.tolist()[2] == [True, True, True]


def test_pairs_hold_all_chosen_rows_and_then_all_rejected() -> None:
    assert PAIRS.tokens.tolist() == [[1, 2, 0, 0], [1, 5, 6, 7], [1, 3, 4, 0], [1, 0, 0, 0]]
    assert PAIRS.mask.sum(-1).tolist() == [2, 4, 3, 1]
    assert PAIRS.response.sum(-1).tolist() == [1, 3, 2, 0]
    assert PAIRS.positions.tolist() == [3, 4]


def test_prompts_are_padded_on_the_left() -> None:
    assert PROMPTS.tokens.tolist() == [[0, 5, 6], [0, 0, 7], [8, 0, 9]]
    assert PROMPTS.mask.tolist()[:2] == [[False, True, True], [False, False, True]]
    assert PROMPTS.positions.tolist() == [1, 2, 3]


def test_taken_sequences_are_cut_to_the_longest_of_them() -> None:
    part = take(SEQUENCES, [2, 0])
    assert part.tokens.tolist() == [[4, 0], [5, 6]]
    assert part.mask.tolist() == [[True, False], [True, True]]
    assert part.targets.tolist() == [[False, False], [False, True]]
    assert part.positions.tolist() == [9, 7]


def test_a_taken_pair_keeps_both_sides() -> None:
    part = take(PAIRS, [0])
    assert part.tokens.tolist() == [[1, 2, 0], [1, 3, 4]]
    assert part.response.tolist() == [[False, True, False], [False, True, True]]
    assert part.positions.tolist() == [3]


def known(margin: float | None, preference: float | None, weight: float) -> PairExample:
    record = Pair([], [], [], "f:1", {}, margin, preference)
    return replace(pair([1, 2], [1, 3]), record=record, weight=weight)


def labels(batch: PairBatch) -> list[list[float] | None]:
    parts = (batch.margin, batch.preference, batch.weight)
    return [None if part is None else part.tolist() for part in parts]


def test_a_pair_costs_both_sides_padded_to_the_longer_or_packed_with_its_prompt_once() -> None:
    batch = collate_pairs(
        [
            (0, pair([1, 2, 3, 4], [1, 2, 5])),
            (1, pair([1, 2, 3], [1, 2, 3])),
            (2, pair([6], [7, 1])),
            (3, pair([1, 2], [1, 2, 0, 0])),  # the padding token is a real one
        ]
    )
    assert pair_tokens(batch, pads=True) == [8, 6, 4, 8]
    assert pair_tokens(batch, pads=False) == [5, 3, 3, 4]


def test_what_is_known_of_pairs_comes_along_and_where_it_is_not_has_no_effect() -> None:
    batch = collate_pairs([(0, known(2.0, None, 0.5)), (1, known(None, 0.75, 1.0))])
    assert labels(batch) == [[2.0, 0.0], [1.0, 0.75], [0.5, 1.0]]
    assert labels(take(batch, [1])) == [[0.0], [0.75], [1.0]]


def test_what_is_known_of_no_pair_is_none() -> None:
    assert labels(PAIRS) == labels(take(PAIRS, [0])) == [None, None, None]
    assert labels(collate_pairs([(0, known(0.0, None, 1.0))])) == [[0.0], None, None]


def test_taken_prompts_lose_padding_on_the_left() -> None:
    part = take(PROMPTS, [1, 0])
    assert part.tokens.tolist() == [[0, 7], [5, 6]]
    assert part.positions.tolist() == [2, 1]


def test_taking_no_rows_gives_an_empty_batch() -> None:
    assert take(SEQUENCES, []).tokens.shape == (0, 0)


@pytest.mark.parametrize("batch", [SEQUENCES, PAIRS, PROMPTS], ids=lambda b: type(b).__name__)
def test_lightning_moves_a_batch_to_a_device(batch: Batch) -> None:
    moved = move_data_to_device(batch, torch.device("meta"))
    assert type(moved) is type(batch)
    assert all(part is None or part.is_meta for part in moved)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120))
def test_micro_batches_hold_every_row_once_and_keep_to_the_budget(
    lengths: list[int], max_tokens: int
) -> None:
    cuts = micro_batches(lengths, max_tokens=max_tokens)
    assert sorted(row for cut in cuts for row in cut) == list(range(len(lengths)))
    for cut in cuts:
        padded = len(cut) * max(lengths[row] for row in cut)
        assert padded <= max_tokens or len(cut) == 1
    assert cuts == micro_batches(lengths, max_tokens=max_tokens)


def test_rows_that_are_packed_are_cut_only_to_keep_to_the_budget() -> None:
    lengths = [300, 10, 290, 20, 280]
    assert micro_batches(lengths, max_tokens=1500, pads=False) == [[0, 2, 4, 3, 1]]
    assert len(micro_batches(lengths, max_tokens=1500)) > 1
    for cut in micro_batches(lengths, max_tokens=600, pads=False):
        assert len(cut) * max(lengths[row] for row in cut) <= 600


def test_micro_batches_begin_with_the_longest_rows_and_keep_equals_in_order() -> None:
    assert micro_batches([3, 9, 3, 5], max_tokens=10) == [[1], [3], [0, 2]]
    assert micro_batches([3, 9, 3, 5], max_tokens=100) == [[1, 3, 0, 2]]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=7), st.integers(1, 2000))
def test_no_other_cuts_of_the_sorted_rows_cost_less(lengths: list[int], max_tokens: int) -> None:
    def cost(cuts: list[list[int]]) -> int:
        return sum(len(cut) * cut[0] + CUT_COST for cut in cuts)

    ordered = sorted(lengths, reverse=True)
    others = []
    for marks in product([False, True], repeat=len(ordered) - 1):
        cuts = [ordered[:1]]
        for mark, length in zip(marks, ordered[1:], strict=True):
            cuts = [*cuts, [length]] if mark else [*cuts[:-1], [*cuts[-1], length]]
        if all(len(cut) == 1 or len(cut) * cut[0] <= max_tokens for cut in cuts):
            others.append(cost(cuts))
    ours = [[lengths[row] for row in cut] for cut in micro_batches(lengths, max_tokens=max_tokens)]
    assert cost(ours) == min(others)


def test_a_budget_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens must be 1 or more, got 0"):
        micro_batches([1], max_tokens=0)
