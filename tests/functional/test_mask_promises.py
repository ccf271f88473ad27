"""What every function with a mask promises, put to all of them alike."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.functional.advantages import (
    explained_variance,
    generalized_advantage_estimation,
    token_rewards,
)
from rlhf_forge.functional.losses import clipped_policy_loss, clipped_value_loss, sft_loss
from rlhf_forge.functional.masking import masked_mean, masked_var, whiten

Inputs = list[Tensor]
Masked = Callable[[Inputs, Tensor], tuple[Tensor, ...]]
NUM_INPUTS = 5


def policy_loss(x: Inputs, mask: Tensor, num_tokens: int) -> tuple[Tensor, ...]:
    loss, stats = clipped_policy_loss(
        x[0],
        x[1],
        x[2],
        mask,
        clip_range=0.2,
        clip_range_high=0.3,
        dual_clip=3.0,
        weights=x[3],
        num_tokens=num_tokens,
    )
    return loss, *stats


def value_loss(x: Inputs, mask: Tensor, num_tokens: int) -> tuple[Tensor, ...]:
    loss, stats = clipped_value_loss(x[0], x[1], x[2], mask, clip_range=0.5, num_tokens=num_tokens)
    return loss, *stats


LOSSES: dict[str, Callable[[Inputs, Tensor, int], tuple[Tensor, ...]]] = {
    "sft_loss": lambda x, mask, n: (sft_loss(x[0], mask, num_tokens=n),),
    "clipped_policy_loss": policy_loss,
    "clipped_value_loss": value_loss,
}

FUNCTIONS: dict[str, Masked] = {
    "masked_mean": lambda x, mask: (masked_mean(x[0], mask),),
    "masked_var": lambda x, mask: (masked_var(x[0], mask),),
    "whiten": lambda x, mask: (whiten(x[0], mask),),
    "token_rewards": lambda x, mask: (
        token_rewards(x[0].new_full((len(mask),), 3.0), x[0], mask, kl_coef=0.3),
    ),
    "generalized_advantage_estimation": lambda x, mask: generalized_advantage_estimation(
        x[0], x[1], mask, gamma=0.9, gae_lambda=0.8
    ),
    "explained_variance": lambda x, mask: (explained_variance(x[0], x[1], mask),),
    "sft_loss": lambda x, mask: LOSSES["sft_loss"](x, mask, 11),
    "clipped_policy_loss": lambda x, mask: policy_loss(x, mask, 11),
    "clipped_value_loss": lambda x, mask: value_loss(x, mask, 11),
}


def rows(*lines: str) -> Tensor:
    return torch.tensor([[mark == "x" for mark in line] for line in lines], dtype=torch.bool)


MASKS = {
    "full": rows("xxxxx", "xxxxx", "xxxxx"),
    "right_padded": rows("xxxx.", "x....", "xxxxx"),
    "left_padded": rows("..xxx", "....x", "xxxxx"),
    "holes": rows("x.x.x", ".xx.x", "x...x"),
    "an_empty_row": rows("xx.x.", ".....", "xxxxx"),
    "one_token_each": rows("..x..", "x....", "....x"),
    "one_token": rows(".....", "..x..", "....."),
    "one_by_one": rows("x"),
    "nothing": rows(".....", "....."),
    "no_time": torch.ones(3, 0, dtype=torch.bool),
    "no_batch": torch.ones(0, 5, dtype=torch.bool),
}


@pytest.fixture(params=FUNCTIONS.values(), ids=list(FUNCTIONS))
def function(request: pytest.FixtureRequest) -> Masked:
    chosen: Masked = request.param
    return chosen


@pytest.fixture(params=MASKS.values(), ids=list(MASKS))
def mask(request: pytest.FixtureRequest) -> Tensor:
    chosen: Tensor = request.param
    return chosen


def random_inputs(mask: Tensor, dtype: torch.dtype = torch.float64) -> Inputs:
    return [torch.randn(mask.shape, dtype=dtype) for _ in range(NUM_INPUTS)]


def outputs_and_gradients(
    function: Masked, inputs: Inputs, mask: Tensor
) -> tuple[tuple[Tensor, ...], Inputs]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    outputs = function(leaves, mask)
    torch.autograd.backward(torch.stack([y.sum() for y in outputs if y.requires_grad]).sum())
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]
    return tuple(y.detach() for y in outputs), gradients


def spoilt(inputs: Inputs, mask: Tensor, garbage: float) -> Inputs:
    return [x.masked_fill(~mask, garbage) for x in inputs]


def test_garbage_outside_the_mask_changes_no_bit_of_results_or_gradients(
    function: Masked, mask: Tensor
) -> None:
    inputs = random_inputs(mask)
    clean = outputs_and_gradients(function, spoilt(inputs, mask, 0.0), mask)
    for garbage in (float("nan"), float("inf"), float("-inf"), 1e300):
        dirty = outputs_and_gradients(function, spoilt(inputs, mask, garbage), mask)
        assert_close(dirty, clean, rtol=0, atol=0)


def test_results_and_gradients_are_exactly_zero_outside_the_mask(
    function: Masked, mask: Tensor
) -> None:
    outputs, gradients = outputs_and_gradients(function, random_inputs(mask), mask)
    for tensor in [*outputs, *gradients]:
        if tensor.shape == mask.shape:
            assert (tensor[~mask] == 0).all()


def test_results_and_gradients_are_finite(function: Masked, mask: Tensor) -> None:
    outputs, gradients = outputs_and_gradients(function, random_inputs(mask), mask)
    assert all(tensor.isfinite().all() for tensor in [*outputs, *gradients])


@pytest.mark.parametrize("name", ["nothing", "no_time", "no_batch"])
def test_an_empty_selection_gives_zero(function: Masked, name: str) -> None:
    outputs, _ = outputs_and_gradients(function, random_inputs(MASKS[name]), MASKS[name])
    assert all((tensor == 0).all() for tensor in outputs)


def test_appended_padding_changes_nothing(function: Masked, mask: Tensor) -> None:
    inputs = random_inputs(mask)
    for widths in ((0, 3), (2, 0)):
        wide_mask = torch.nn.functional.pad(mask, widths, value=False)
        wide = [torch.nn.functional.pad(x, widths, value=float("nan")) for x in inputs]
        assert_same_on_real_tokens(function, (inputs, mask), (wide, wide_mask))


def test_holes_are_skipped_as_if_they_were_not_there(function: Masked, mask: Tensor) -> None:
    inputs = random_inputs(mask)
    # Stable: real tokens keep their order and move to the front.
    order = mask.int().argsort(dim=1, descending=True, stable=True)
    compacted = [x.gather(1, order) for x in inputs]
    assert_same_on_real_tokens(function, (inputs, mask), (compacted, mask.gather(1, order)))


def assert_same_on_real_tokens(
    function: Masked, one: tuple[Inputs, Tensor], other: tuple[Inputs, Tensor]
) -> None:
    for left, right in zip(function(*one), function(*other), strict=True):
        if left.shape == one[1].shape and left.dim() == 2:
            left, right = left[one[1]], right[other[1]]
        assert_close(left, right, rtol=1e-12, atol=1e-14)


def test_the_order_of_rows_does_not_matter(function: Masked, mask: Tensor) -> None:
    inputs, order = random_inputs(mask), torch.randperm(len(mask))
    shuffled = function([x[order] for x in inputs], mask[order])
    for straight, permuted in zip(function(inputs, mask), shuffled, strict=True):
        expected = straight[order] if straight.dim() == 2 else straight
        assert_close(permuted, expected, rtol=1e-12, atol=1e-14)


def test_results_have_the_dtype_of_the_inputs(function: Masked, mask: Tensor) -> None:
    for dtype in (torch.float32, torch.float64):
        assert all(y.dtype == dtype for y in function(random_inputs(mask, dtype), mask))


def test_float32_agrees_with_float64(function: Masked, mask: Tensor) -> None:
    inputs = random_inputs(mask)
    exact = function(inputs, mask)
    rounded = function([x.float() for x in inputs], mask)
    for left, right in zip(rounded, exact, strict=True):
        assert_close(left.double(), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7], [1, 11], [0, 3, 9], [4, 4, 4]], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_every_split_of_a_step_gives_the_same_loss_and_gradient(
    name: str, sizes: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    loss = LOSSES[name]
    mask = torch.rand(12, 30) < torch.rand(12, 1)
    inputs = spoilt(random_inputs(mask, dtype), mask, float("nan"))
    num_tokens = int(mask.sum())

    def loss_and_gradient(parts: list[slice]) -> tuple[Tensor, Tensor]:
        leaf = inputs[0].clone().requires_grad_()
        step = [leaf, *inputs[1:]]
        pieces = [loss([x[part] for x in step], mask[part], num_tokens)[0] for part in parts]
        for piece in pieces:
            torch.autograd.backward(piece)
        assert leaf.grad is not None
        return torch.stack(pieces).sum().detach(), leaf.grad

    ends = torch.tensor(sizes).cumsum(0).tolist()
    split = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    whole, pieces = loss_and_gradient([slice(None)]), loss_and_gradient(split)
    for one, other in zip(whole, pieces, strict=True):
        assert (one - other).norm() <= tolerance * one.norm()
