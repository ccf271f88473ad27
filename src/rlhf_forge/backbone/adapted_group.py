"""Linear layers that read the same input, with their adapters, as one product each way.

A decoder layer's q, k and v read one input, and so do gate and up: their frozen weights are one
matrix, of which each layer holds its rows. The adapters' narrow products run into the wide ones'
outputs in place, so that no output is ever added to another.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from rlhf_forge.backbone.adapted_linear import AdaptedLinear
from rlhf_forge.backbone.frozen_linear import unpack_into
from rlhf_forge.functional.products import wide_product


class AdaptedGroup:
    """Adapted layers of one input.

    Args:
        layers: Without biases.
    """

    def __init__(self, *layers: AdaptedLinear) -> None:
        self.layers = layers
        self._dense: Tensor | None = None

    def __call__(
        self,
        x: Float[Tensor, "tokens inner"],
        role: str,
        residual: Float[Tensor, "tokens outer"] | None = None,
    ) -> Float[Tensor, "tokens outer"]:
        """Outputs of all layers under ``role``, side by side, and the ``residual`` added.

        Gradients flow to x, to the residual and to the role's adapters.
        """
        with_role = [layer for layer in self.layers if role in layer.scaling]
        factors = [f for layer in with_role for f in (layer.lora_A[role], layer.lora_B[role])]
        scaling = with_role[0].scaling[role] if with_role else 0.0
        y: Tensor = _Product.apply(x, residual, self, scaling, *factors)  # type: ignore[no-untyped-call]
        return y

    def weight(self, dtype: torch.dtype) -> Float[Tensor, "outer inner"]:
        """The frozen weights, one below the other; unpacked for the moment if they are 4-bit."""
        if any(layer.frozen.weight.dtype != dtype for layer in self.layers):
            return self._unpacked(dtype)
        if self._dense is None or not self._is_shared(self._dense):
            self._dense = self._joined()
        return self._dense

    def _unpacked(self, dtype: torch.dtype) -> Tensor:
        """Each layer's weight unpacked to where it goes: joining them would be another pass."""
        layers = [layer.frozen for layer in self.layers]
        heights = [layer.out_features for layer in layers]
        whole = torch.empty(
            sum(heights), layers[0].in_features, dtype=dtype, device=layers[0].weight.device
        )
        for layer, part in zip(layers, torch.split(whole, heights), strict=True):
            unpack_into(part, layer)
        return whole

    def _joined(self) -> Tensor:
        """One matrix of which each layer's weight becomes a part: nothing is held twice."""
        if len(self.layers) == 1:
            return self.layers[0].frozen.weight.detach()
        weights = [layer.frozen.weight for layer in self.layers]
        whole = torch.cat([weight.detach() for weight in weights])
        for weight, part in zip(
            weights, torch.split(whole, [len(w) for w in weights]), strict=True
        ):
            weight.data = part
        return whole

    def _is_shared(self, whole: Tensor) -> bool:
        """Whether the layers' weights are still parts of it: a cast gives each its own memory."""
        place, step = whole.data_ptr(), whole.element_size()
        for layer in self.layers:
            weight = layer.frozen.weight
            if weight.data_ptr() != place or weight.dtype != whole.dtype:
                return False
            place += weight.numel() * step
        return True


class _Product(torch.autograd.Function):
    """``residual + x W^T + scaling (x A^T) B^T``; keeps x, the narrow products, and A, B as cast.

    Casting them once more in the backward would cost a GPU more in launches than they do in memory.
    """

    @staticmethod
    @override
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        group: AdaptedGroup,
        scaling: float,
        *factors: Tensor,
    ) -> Tensor:
        weight = group.weight(x.dtype)
        y = wide_product(x, weight, residual)
        ctx.group, ctx.scaling = group, scaling
        if not factors:
            ctx.save_for_backward(x)
            return y
        down, ups = _cast(factors, scaling, x.dtype)
        narrow = torch.split(x @ down.T, [len(a) for a in factors[::2]], dim=1)
        for part, up, out in zip(narrow, ups, _columns(y, ups), strict=True):
            out.addmm_(part, up.T)
        ctx.save_for_backward(x, down, *narrow, *ups)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:  # type: ignore[explicit-override] # torch's decorator hides it
        grad, needed = grads[0], ctx.needs_input_grad
        x, *others = ctx.saved_tensors
        grad_x = wide_product(grad, ctx.group.weight(x.dtype).T) if needed[0] else None
        grad_residual = grad if needed[1] else None
        if not others:
            return grad_x, grad_residual, None, None
        down, *others = others
        narrow, ups = others[: len(others) // 2], others[len(others) // 2 :]
        parts = _columns(grad, ups)
        grad_narrow = torch.cat([g @ up for g, up in zip(parts, ups, strict=True)], dim=1)
        if grad_x is not None:
            grad_x.addmm_(grad_narrow, down)
        if not any(needed[4:]):
            return grad_x, grad_residual, None, None, *[None] * len(needed[4:])
        grad_down = (grad_narrow.T @ x).mul_(ctx.scaling)
        downs = torch.split(grad_down, [part.shape[1] for part in narrow])
        of_ups = [g.T @ h for g, h in zip(parts, narrow, strict=True)]
        return grad_x, grad_residual, None, None, *chain(*zip(downs, of_ups, strict=True))


def _cast(
    factors: Sequence[Tensor], scaling: float, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """All A, scaled, one below the other, and each B, in the dtype of the computation."""
    down = torch.cat([*factors[::2]]).to(dtype).mul_(scaling)
    return down, [b.to(dtype) for b in factors[1::2]]


def _columns(y: Tensor, ups: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.split(y, [len(up) for up in ups], dim=1)
