import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from rlhf_forge.backbone import frozen_linear
from rlhf_forge.backbone.bitsandbytes_guard import import_bitsandbytes
from rlhf_forge.backbone.frozen_linear import dense_weight, frozen_product
from rlhf_forge.functional import products
from rlhf_forge.functional.products import product


@pytest.fixture
def no_bf16_units(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (frozen_linear, products):
        monkeypatch.setattr(module, "has_bf16_units", lambda _: False)


def four_bit(linear: nn.Linear, dtype: torch.dtype) -> nn.Linear:
    bitsandbytes = import_bitsandbytes()
    held: nn.Linear = bitsandbytes.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=True, compute_dtype=dtype, quant_type="nf4"
    )
    held.load_state_dict(linear.state_dict())
    return held.to("cpu").requires_grad_(False)


@pytest.mark.usefixtures("no_bf16_units")
def test_without_bf16_units_a_product_is_the_rounded_float32_product() -> None:
    x, weight = torch.randn(2, 3, 64).bfloat16(), torch.randn(32, 64).bfloat16()
    expected = F.linear(x.float(), weight.float()).bfloat16()
    assert torch.equal(product(x, weight), expected)
    layer = nn.Linear(64, 32, bias=False).requires_grad_(False)
    layer.weight.data = weight
    assert torch.equal(frozen_product(x, layer), expected)


@pytest.mark.usefixtures("no_bf16_units")
def test_without_bf16_units_the_gradient_is_the_rounded_float32_one() -> None:
    layer = nn.Linear(64, 32).bfloat16().requires_grad_(False)
    x = torch.randn(5, 64).bfloat16().requires_grad_()
    upstream = torch.randn(5, 32).bfloat16()
    frozen_product(x, layer).backward(upstream)  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, (upstream.float() @ layer.weight.float()).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_4_bit_forward_and_backward_are_those_of_the_dequantised_weight(dtype: torch.dtype) -> None:
    held = four_bit(nn.Linear(128, 64), dtype)
    dense = nn.Linear(128, 64).to(dtype).requires_grad_(False)
    dense.weight.data = dense_weight(held, dtype)
    dense.bias.data = held.bias.detach().to(dtype)
    held.bias.data = dense.bias.data
    x = torch.randn(2, 5, 128).to(dtype).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    ours, theirs = frozen_product(x, held), frozen_product(twin, dense)
    upstream = torch.randn(2, 5, 64).to(dtype)
    ours.backward(upstream)  # type: ignore[no-untyped-call]
    theirs.backward(upstream)  # type: ignore[no-untyped-call]
    assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert_close(x.grad, twin.grad, atol=1e-6, rtol=1e-6)


def test_a_4_bit_weight_is_near_the_weight_it_was_made_of() -> None:
    linear = nn.Linear(128, 64)
    original = linear.weight.detach().clone()
    error = (dense_weight(four_bit(linear, torch.float32), torch.float32) - original).norm()
    assert 0 < error < 0.15 * original.norm()


@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_computes_as_torch_does(bias: bool) -> None:
    layer = nn.Linear(16, 8, bias=bias).requires_grad_(False)
    x = torch.randn(2, 3, 16)
    assert torch.equal(
        frozen_product(x, layer), F.linear(x, layer.weight) + (layer.bias if bias else 0)
    )


def test_no_gradient_reaches_a_frozen_weight() -> None:
    layer = four_bit(nn.Linear(128, 64), torch.float32)
    x = torch.randn(1, 2, 128, requires_grad=True)
    frozen_product(x, layer).sum().backward()  # type: ignore[no-untyped-call]
    assert layer.weight.grad is None
    assert layer.bias.grad is None


def test_the_input_of_a_4_bit_layer_is_not_kept_for_the_backward() -> None:
    held = four_bit(nn.Linear(64, 32), torch.float32)
    source = torch.randn(4, 64).requires_grad_()
    x = source * 2
    there = weakref.ref(x)
    y = frozen_product(x, held)
    del x
    assert there() is None
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert source.grad is not None
