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


# With fewer rows torch's own product is as fast, and brings no kernel for each new number of them.
MANY_ROWS = 256


def wide_product(
    x: Float[Tensor, "rows inner"],
    weight: Float[Tensor, "outer inner"],
    residual: Float[Tensor, "rows outer"] | None = None,
) -> Float[Tensor, "rows outer"]:
    """``x @ weight.T``, and the ``residual`` added; it has no gradient: autograd functions call it.

    In bf16 torch itself multiplies by oneDNN on a CPU. In float32 it leaves that to MKL, which is
    slower on CPUs of another maker, most of all on several threads (`benchmarks/products.py`).
    """
    assert not torch.is_grad_enabled(), "a gradient would be lost"
    if _is_faster_by_onednn(x):
        if residual is None:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        else:
            y = torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, None, "add")
        return y
    return product(x, weight) if residual is None else torch.addmm(residual, x, weight.T)


def _is_faster_by_onednn(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and len(x) >= MANY_ROWS
        and _has_onednn()
    )


@cache
def _has_onednn() -> bool:
    """Whether torch was built with it, and still has the operation that its compiler calls."""
    return torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
        torch.ops.mkldnn, "_linear_pointwise"
    )
