"""How large a base's adapters are, known from its config alone."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_forge.backbone.adapted_linear import adaptable
from rlhf_forge.errors import UserError


def adapter_numbers(base: str, folder: Path, *, rank: int) -> int:
    """Numbers in one adapter of a base: r x (in + out) for each layer that is adapted.

    Builds the model without memory for its weights, as a run would build it with.

    Args:
        base: Its name, for the message.
        folder: Where it lies; only config.json is read.
        rank: r of the adapter.

    Raises:
        UserError: If transformers cannot make a causal LM of the config.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"base {base}: cannot be loaded: {reason}") from error
    layers = adaptable(model).values()
    return rank * sum(layer.in_features + layer.out_features for layer in layers)
