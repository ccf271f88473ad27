"""Products with weights that never train, whatever form they are held in.

A frozen weight needs no gradient and its input need not be kept for one, so a held form that must
be unpacked first (4 bit; bf16 on a CPU without bf16 units) is unpacked once in the forward and once
more in the backward, and never stored unpacked.

bitsandbytes' own layer is not called: on some CPUs its forward in eval mode repacks the weight in
place, after which gradients are wrong. Here training and eval share one path, bit for bit.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from rlhf_forge.backbone.bitsandbytes_guard import import_bitsandbytes
from rlhf_forge.functional.products import has_bf16_units, product


class _UnpackedProduct(torch.autograd.Function):
    """``product(x, unpack())`` that holds neither x nor the unpacked weight for the backward."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, unpack: Callable[[], Tensor]) -> Tensor:
        ctx.unpack = unpack
        return product(x, unpack())

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return product(grads[0], ctx.unpack().T), None


def frozen_product(x: Tensor, linear: nn.Linear) -> Tensor:
    """Output of a frozen linear layer, dense or 4-bit, for ``x`` [..., in_features].

    Gradients flow to x only.
    """
    weight, dtype = linear.weight, x.dtype
    bias: Tensor | None = linear.bias
    quant_state = getattr(weight, "quant_state", None)
    if quant_state is not None:
        if _is_decode_step(x):
            return _fused_4bit(x, linear, quant_state)
        y = _unpacked_product(x, lambda: dense_weight(linear, dtype))  # x in it would be kept
    elif dtype == torch.bfloat16 and not has_bf16_units(x.device.type):
        y = _unpacked_product(x, lambda: weight)
    else:
        y = F.linear(x, weight)
    return y if bias is None else y + bias


def _unpacked_product(x: Tensor, unpack: Callable[[], Tensor]) -> Tensor:
    y: Tensor = _UnpackedProduct.apply(x, unpack)  # type: ignore[no-untyped-call]
    return y


def dense_weight(linear: nn.Linear, dtype: torch.dtype) -> Float[Tensor, "outer inner"]:
    """The layer's weight, dequantised if it is 4-bit, in ``dtype``."""
    quant_state = getattr(linear.weight, "quant_state", None)
    if quant_state is None:
        return linear.weight.detach().to(dtype)
    dequantize = import_bitsandbytes().functional.dequantize_4bit
    weight: Tensor = dequantize(linear.weight.data, quant_state)
    return weight.to(dtype)


def unpack_into(out: Float[Tensor, "outer inner"], linear: nn.Linear) -> None:
    """Write `dense_weight` in ``out``'s dtype to ``out``, on a GPU in one pass."""
    quant_state = getattr(linear.weight, "quant_state", None)
    if out.is_cuda and quant_state is not None and quant_state.dtype == out.dtype:
        dequantize = import_bitsandbytes().functional.dequantize_4bit
        dequantize(linear.weight.data, quant_state, out=out)
    else:
        out.copy_(dense_weight(linear, out.dtype))


def _is_decode_step(x: Tensor) -> bool:
    """One new token a row, on a GPU, without gradients: where the fused 4-bit kernel pays.

    Whatever is compared with the training forward (old and reference log-probs) has more than one
    token a row and so takes the training path, bit for bit.
    """
    return x.is_cuda and not torch.is_grad_enabled() and x.dim() == 3 and x.shape[1] == 1


def _fused_4bit(x: Tensor, linear: nn.Linear, quant_state: Any) -> Tensor:
    y: Tensor = import_bitsandbytes().matmul_4bit(
        x, linear.weight.data.t(), quant_state=quant_state, bias=linear.bias
    )
    return y
