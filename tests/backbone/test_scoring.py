import torch
from torch.nn import functional as F
from torch.testing import assert_close

from rlhf_forge.backbone.scoring import row_ends, row_width, score, values_before
from tests import tiny

LENGTHS = [9, 14, 6]
TOKENS = tiny.rows(*LENGTHS)
MASK = tiny.spans((4, 9), (5, 14), (2, 6))


def test_a_score_is_the_scalar_after_the_last_response_token() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    with backbone.using("reward"):
        scalars = backbone.scalars(TOKENS)
    assert torch.equal(score(backbone, TOKENS, MASK), scalars[[0, 1, 2], [8, 13, 5]])


def test_a_score_does_not_read_what_stands_after_the_response() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    scores = score(backbone, TOKENS, MASK)
    noise = tiny.rows(14, 14, 14, seed=7)
    real = tiny.spans(*((0, length) for length in LENGTHS))
    assert torch.equal(score(backbone, torch.where(real, TOKENS, noise), MASK), scores)
    wide = score(backbone, F.pad(TOKENS, (0, 9), value=5), F.pad(MASK, (0, 9)))
    assert_close(wide, scores, atol=2e-5, rtol=0)


def test_the_critic_speaks_through_the_same_function() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    assert torch.equal(score(backbone, TOKENS, MASK, role="value"), score(backbone, TOKENS, MASK))


def test_a_value_is_what_the_critic_made_of_the_token_to_the_left() -> None:
    scalars = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, float("nan")]])
    mask = torch.tensor([[False, True, True, False], [False, False, True, True]])
    assert values_before(scalars, mask).tolist() == [[0.0, 1.0, 2.0, 0.0], [0.0, 0.0, 6.0, 7.0]]


def test_a_row_ends_after_its_last_response_token_and_an_empty_one_after_its_first_token() -> None:
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[0, 2] = mask[0, 4] = mask[1, 1] = True
    assert row_ends(mask) == [5, 2, 1]
    assert row_width(mask) == 5
    assert row_width(mask[2:]) == 1
