import pytest
import torch
from torch import Tensor

from rlhf_forge.generation.decode import Response
from rlhf_forge.generation.rows import join, per_row
from tests import tiny


def test_rows_are_prompt_then_response_padded_on_the_right() -> None:
    responses = [Response([8, 2], True), Response([9], False), Response([7, 7, 2], True)]
    tokens, mask = join([[5], [5, 6, 7], [4, 4]], responses, tiny.CPU)
    assert tokens.tolist() == [[5, 8, 2, 0, 0], [5, 6, 7, 9, 0], [4, 4, 7, 7, 2]]
    assert [[int(real) for real in row] for row in mask.tolist()] == [
        [0, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 1, 1, 1],
    ]


def test_a_prompt_without_its_response_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        join([[5], [6]], [Response([8], True)], tiny.CPU)


def test_a_number_for_each_row_stands_where_its_row_stands() -> None:
    seen: list[tuple[int, int]] = []

    def total(tokens: Tensor, mask: Tensor) -> Tensor:
        seen.append((tokens.shape[0], tokens.shape[1]))
        return torch.where(mask, tokens, 0).sum(-1).float()

    tokens = tiny.rows(3, 9, 5)
    mask = tiny.spans((1, 3), (4, 9), (2, 5))
    found = per_row(total, tokens, mask, max_tokens=10)
    assert found.tolist() == [float(row[m].sum()) for row, m in zip(tokens, mask, strict=True)]
    assert seen == [(1, 9), (2, 5)]


def test_numbers_of_rows_have_no_gradient() -> None:
    weight = torch.ones((), requires_grad=True)
    found = per_row(
        lambda tokens, mask: weight * mask.sum(-1),
        tiny.rows(3),
        tiny.spans((1, 3)),
        max_tokens=8,
    )
    assert not found.requires_grad
