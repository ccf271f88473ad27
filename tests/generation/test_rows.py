import pytest

from rlhf_forge.generation.decode import Response
from rlhf_forge.generation.rows import join
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
