"""An adapter added into a plain copy of its base."""

import copy

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlhf_forge.backbone.adapter_files import AdapterWeights
from rlhf_forge.backbone.frozen_linear import dense_weight
from rlhf_forge.errors import UserError


def merged_copy(base: PreTrainedModel, weights: AdapterWeights) -> PreTrainedModel:
    """A model of its own with ``W + (alpha / r) B A`` for every adapted W of ``base``.

    4-bit weights are dequantised: the adapter was trained on just those values. The sum is taken
    in float32 and rounded to the base's dtype, and ``base`` stays as it is: added in place, an
    adapter cannot be taken out of a bf16 weight again.

    Args:
        base: As `load_base` gives it, without roles.
        weights: The adapter; must have no head.

    Returns:
        The copy on the CPU, to be saved and loaded again: buffers that are not saved are empty.

    Raises:
        UserError: If the adapter does not fit the base.
    """
    dtype = base.dtype
    state = {
        name: parameter.detach().to("cpu", dtype)
        for name, parameter in base.named_parameters(remove_duplicate=False)
        if name.removesuffix(".weight") not in weights.pairs
    }
    scaling = weights.lora.alpha / weights.lora.r
    for name, (down, up) in weights.pairs.items():
        dense = dense_weight(_linear(base, name), torch.float32).cpu()
        if dense.shape != (up.shape[0], down.shape[1]):
            raise UserError(f"the adapter does not fit this base: see layer {name}")
        state[f"{name}.weight"] = (dense + scaling * (up.float() @ down.float())).to(dtype)
    merged = _empty_copy(base)
    merged.load_state_dict(state, assign=True)
    merged.tie_weights()
    return merged


def _linear(base: PreTrainedModel, name: str) -> torch.nn.Linear:
    try:
        layer = base.get_submodule(name)
    except AttributeError:
        raise UserError(f"the adapter does not fit this base: it has no layer {name}") from None
    assert isinstance(layer, torch.nn.Linear)
    return layer


def _empty_copy(base: PreTrainedModel) -> PreTrainedModel:
    """The same architecture without weights and without quantisation."""
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        empty: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=base.dtype
        )
    empty.generation_config = base.generation_config
    return empty
