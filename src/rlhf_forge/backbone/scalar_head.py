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
        likelihood: Weight of the reference-likelihood feature; None: the feature is off.
        likelihood_mean: Value of the feature that counts as 0, so that ``mean`` is the linear map's
            own: a critic, which cannot know the feature, starts from it.
    """

    weight: Float[Tensor, "1 hidden"]
    mean: float = 0.0
    std: float = 1.0
    likelihood: float | None = None
    likelihood_mean: float = 0.0


class ScalarHead(nn.Module):
    """``(w h - mean) / std`` in float32.

    With the reference-likelihood feature on, `rlhf_forge.backbone.scoring.score` adds its share,
    which is a number of the whole response and not of one hidden state.

    The scale lives in the head, so whoever copies the head (the critic starts as a copy of the
    reward model) speaks of the same units.
    """

    mean: Tensor
    std: Tensor
    likelihood_mean: Tensor

    def __init__(self, weights: HeadWeights, device: torch.device) -> None:
        super().__init__()
        if not 0 < weights.std < float("inf"):
            raise ValueError(f"a head's std must be positive, got {weights.std}")
        self.weight = nn.Parameter(weights.weight.detach().float().to(device, copy=True))
        self.likelihood: nn.Parameter | None = None
        if weights.likelihood is not None:
            self.likelihood = nn.Parameter(torch.tensor(weights.likelihood, device=device))
        self.register_buffer("mean", torch.tensor(weights.mean, device=device))
        self.register_buffer("std", torch.tensor(weights.std, device=device))
        self.register_buffer(
            "likelihood_mean", torch.tensor(weights.likelihood_mean, device=device)
        )

    @override
    def forward(self, states: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows"]:
        raw = (states.to(self.weight.dtype) @ self.weight.t()).squeeze(-1)
        return (raw - self.mean) / self.std

    def weights(self) -> HeadWeights:
        """A copy on the CPU."""
        weight = self.weight.detach().cpu().clone()
        likelihood = None if self.likelihood is None else self.likelihood.item()
        return HeadWeights(
            weight,
            mean=float(self.mean),
            std=float(self.std),
            likelihood=likelihood,
            likelihood_mean=float(self.likelihood_mean),
        )
