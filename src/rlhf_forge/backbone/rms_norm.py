"""Root-mean-square norm with a frozen weight, in few passes over its input."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override


def rms_norm(
    x: Float[Tensor, "tokens width"], weight: Float[Tensor, "width"], *, eps: float
) -> Float[Tensor, "tokens width"]:
    """``weight * x / sqrt(mean(x^2) + eps)``, as transformers' norms round it; gradient to x only.

    Where a chain of torch's own operations keeps an intermediate of x's size for every one of them,
    this keeps x, which its layer holds anyway, and a number a token. So does torch's fused norm,
    which is one on a GPU only and rounds once, behind the weight.
    """
    if x.is_cuda:
        return F.rms_norm(x, weight.shape, weight, eps)
    y: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        y: Tensor = (wide * inverse).to(x.dtype).mul_(weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:  # type: ignore[explicit-override] # torch's decorator hides it
        x, weight, inverse = ctx.saved_tensors
        wide = x.to(inverse.dtype)
        grad = grads[0] * weight.to(inverse.dtype)
        # d(x_j / rms) = (dx_j - x_j <x, dx> / (width rms^2)) / rms
        pull = (grad * wide).sum(-1, keepdim=True).mul_(inverse.pow(3)).div_(-x.shape[-1])
        return grad.mul_(inverse).addcmul_(wide, pull).to(x.dtype), None, None
