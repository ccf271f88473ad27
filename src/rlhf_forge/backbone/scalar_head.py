"""The number a reward model or a critic reads off a hidden state."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override


@dataclass(frozen=True)
class HeadWeights:
    """A scalar head on disk and between roles.

    Attributes:
        weight: Of the linear map, [1, hidden].
        mean: Raw score that counts as 0.
        std: Raw distance that counts as 1.
    """

    weight: Float[Tensor, "1 hidden"]
    mean: float = 0.0
    std: float = 1.0


class ScalarHead(nn.Module):
    """``(w h - mean) / std`` in float32.

    The scale lives in the head, so whoever copies the head (the critic starts as a copy of the
    reward model) speaks of the same units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: HeadWeights, device: torch.device) -> None:
        super().__init__()
        if not 0 < weights.std < float("inf"):
            raise ValueError(f"a head's std must be positive, got {weights.std}")
        self.weight = nn.Parameter(weights.weight.detach().float().to(device, copy=True))
        self.register_buffer("mean", torch.tensor(weights.mean, device=device))
        self.register_buffer("std", torch.tensor(weights.std, device=device))

    @override
    def forward(self, states: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows"]:
        raw = (states.float() @ self.weight.t()).squeeze(-1)
        return (raw - self.mean) / self.std

    def weights(self) -> HeadWeights:
        """A copy on the CPU."""
        weight = self.weight.detach().cpu().clone()
        return HeadWeights(weight, float(self.mean), float(self.std))
