"""Matrix products in the dtype of their factors, at the speed of the device."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@cache
def has_bf16_units(device_type: str) -> bool:
    """Whether this kind of device multiplies bf16 matrices at speed."""
    if device_type != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def product(x: Float[Tensor, "*rows inner"], weight: Float[Tensor, "outer inner"]) -> Tensor:
    """``x @ weight.T`` in x's dtype.

    A CPU without bf16 units takes a hundred times longer over a bf16 product than over float32. It
    multiplies upcast copies and rounds the result: what bf16 units compute, as they accumulate in
    float32.
    """
    if x.dtype == torch.bfloat16 and not has_bf16_units(x.device.type):
        return F.linear(x.float(), weight.float()).to(x.dtype)
    return F.linear(x, weight)
