"""Prompts and responses as padded rows."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_forge.backbone.scoring import row_ends, row_width
from rlhf_forge.data.collate import micro_batches
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


@torch.no_grad()
def per_row(
    function: Callable[[Tensor, Tensor], Float[Tensor, "rows"]],
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    max_tokens: int,
) -> Float[Tensor, "batch"]:
    """A number for each row, computed for some rows at once and without gradients.

    Args:
        function: Takes tokens and mask of some rows, cut to the longest of them.
        tokens: Right-padded rows.
        mask: True on response tokens.
        max_tokens: Padded tokens that the function is given at once.
    """
    numbers = torch.zeros(len(tokens), device=tokens.device)
    for rows in micro_batches(row_ends(mask), max_tokens=max_tokens):
        width = row_width(mask[rows])
        numbers[rows] = function(tokens[rows, :width], mask[rows, :width])
    return numbers
