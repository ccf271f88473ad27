"""Prompts and responses as padded rows."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlhf_forge.generation.decode import Response


def join(
    prompts: Sequence[Sequence[int]], responses: Sequence[Response], device: torch.device
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """Right-padded rows of prompt + response, and the mask of the response tokens."""
    width = max(len(p) + len(r.tokens) for p, r in zip(prompts, responses, strict=True))
    tokens = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response.tokens)
        tokens[row, :end] = torch.tensor([*prompt, *response.tokens])
        mask[row, len(prompt) : end] = True
    return tokens.to(device), mask.to(device)
