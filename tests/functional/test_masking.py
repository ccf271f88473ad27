import statistics

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.testing import assert_close

from rlhf_forge.functional.masking import masked_mean, masked_var, whiten

VALUES = torch.tensor([[1.0, 2.0, float("nan")], [float("inf"), 6.0, 7.0]])
MASK = torch.tensor([[True, True, False], [False, True, True]])


def test_mean_by_hand() -> None:
    assert masked_mean(VALUES, MASK) == 4


def test_variance_by_hand_divides_by_one_less_than_the_count() -> None:
    assert_close(masked_var(VALUES, MASK), torch.tensor((9 + 4 + 4 + 9) / 3))


def test_whitened_by_hand() -> None:
    deviation = (26 / 3 + 1e-8) ** 0.5
    expected = torch.tensor(
        [[-3 / deviation, -2 / deviation, 0], [0, 2 / deviation, 3 / deviation]]
    )
    assert_close(whiten(VALUES, MASK), expected)


def test_the_constant_under_the_root_tames_what_hardly_varies() -> None:
    values = torch.tensor([-1e-4, 0, 1e-4], dtype=torch.float64)
    whitened = whiten(values, torch.ones(3, dtype=torch.bool))
    assert_close(whitened, values / 2e-8**0.5)


@pytest.mark.parametrize("shape", [(7,), (4, 5), (2, 3, 4)])
def test_any_number_of_dimensions_is_taken_as_one_collection(shape: tuple[int, ...]) -> None:
    values, mask = torch.randn(shape, dtype=torch.float64), torch.rand(shape) < 0.7
    mask.view(-1)[:2] = True
    real = values[mask].tolist()
    assert_close(masked_mean(values, mask).item(), statistics.mean(real))
    assert_close(masked_var(values, mask).item(), statistics.variance(real))


def test_whitened_values_have_mean_zero_and_variance_one() -> None:
    values, mask = 5 + 3 * torch.randn(6, 40, dtype=torch.float64), torch.rand(6, 40) < 0.5
    whitened = whiten(values, mask)
    assert abs(masked_mean(whitened, mask)) < 1e-14
    assert_close(masked_var(whitened, mask).item(), 1.0, rtol=1e-8, atol=0)


def test_whitening_forgets_shift_and_scale() -> None:
    values, mask = torch.randn(4, 9, dtype=torch.float64), torch.rand(4, 9) < 0.5
    assert_close(whiten(1e3 * values - 77, mask), whiten(values, mask), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("constant", [0.1, 1000.1, -3e7])
def test_equal_float32_values_have_variance_zero_and_whiten_to_zero(constant: float) -> None:
    values, mask = torch.full((10, 77), constant), torch.rand(10, 77) < 0.8
    assert masked_var(values, mask) == 0
    assert (whiten(values, mask) == 0).all()


def test_a_single_entry_has_variance_zero_and_whitens_to_zero() -> None:
    values, mask = torch.full((2, 2), 123.4), torch.tensor([[False, True], [False, False]])
    assert masked_var(values, mask) == 0
    assert (whiten(values, mask) == 0).all()


def test_variance_survives_an_offset_that_float32_can_barely_hold() -> None:
    values = 1e6 + torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert_close(masked_var(values, torch.ones(4, dtype=torch.bool)), torch.tensor(5 / 3))


@pytest.mark.parametrize("function", [masked_mean, masked_var, whiten])
def test_gradients_are_those_of_the_formula(function: torch.nn.Module) -> None:
    values = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(3, 4) < 0.6
    assert torch.autograd.gradcheck(lambda x: function(x, mask), values)


def test_a_mask_of_another_shape_is_refused_while_testing() -> None:
    with pytest.raises(TypeCheckError):
        masked_mean(torch.ones(2, 3), torch.ones(2, 4, dtype=torch.bool))
