"""Gradient checkpointing of stock layers, as the role they ran as."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf_forge.backbone.adapted_linear import Selection


def recomputed(forward: Callable[..., Tensor], selection: Selection) -> Callable[..., Tensor]:
    """A layer's forward that runs once more in the backward, as the role it ran as at first.

    transformers' own switch is not used: it works in train mode only, and there it takes away the
    cache that generation needs. Without dropout nothing else depends on the mode.

    Args:
        forward: Of the layer.
        selection: Which role computes; shared with the layer.
    """

    def run(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        groups = selection.groups

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), selection.of(groups)

        out: Tensor = checkpoint(
            forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=contexts,
            **kwargs,
        )
        return out

    return run
