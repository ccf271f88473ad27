"""The tiny model in float64, so that what is equal in theory is equal to twelve digits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone


def in_float64(backbone: Backbone) -> Backbone:
    """The same backbone, weights and adapters, with every step of a forward in float64."""
    for module in backbone.modules():
        if type(module).__name__.endswith("RMSNorm"):
            # transformers' own computes in float32, whatever it is given.
            module.forward = _norm(module)
    return backbone.double()


def _norm(module: Any) -> Callable[[Tensor], Tensor]:
    def norm(states: Tensor) -> Tensor:
        variance = states.square().mean(-1, keepdim=True)
        scaled: Tensor = states * torch.rsqrt(variance + module.variance_epsilon) * module.weight
        return scaled

    return norm
