"""Scalars of whole responses and of single tokens.

``mask`` is True on response tokens of right-padded rows of prompt and response.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from rlhf_forge.backbone.backbone import Backbone


def score(
    backbone: Backbone,
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    role: str = "reward",
) -> Float[Tensor, "batch"]:
    """Normalised score of each row, read at its last response token.

    The one way from tokens to a score: reward training, PPO and the server call it. A row without
    a response token is read at its first token, which says nothing about any answer.
    """
    with backbone.using(role):
        scalars = backbone.scalars(tokens)
    index = torch.arange(tokens.shape[1], device=tokens.device)
    last = torch.where(mask, index, 0).amax(-1, keepdim=True)
    return scalars.gather(1, last).squeeze(1)


def values_before(
    scalars: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """The critic's output before each response token: what it made of the token to the left."""
    return torch.where(mask, F.pad(scalars[:, :-1], (1, 0)), 0.0)


def row_ends(mask: Bool[Tensor, "batch time"]) -> list[int]:
    """For each row, one past its last True; at least 1."""
    index = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    ends: list[int] = torch.where(mask, index, 1).amax(-1).tolist()
    return ends


def row_width(mask: Bool[Tensor, "batch time"]) -> int:
    """One past the last True of any row; at least 1."""
    return max(row_ends(mask), default=1)
