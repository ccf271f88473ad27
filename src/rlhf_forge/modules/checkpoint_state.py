"""What a checkpoint holds of a module: the trained adapters and heads, never the base."""

from typing import Any

from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.errors import UserError


def keep_trainable(checkpoint: dict[str, Any], backbone: Backbone) -> None:
    """Drop everything from the checkpoint's state_dict that does not train."""
    wanted = trainable_names(backbone)
    state: dict[str, Tensor] = checkpoint["state_dict"]
    checkpoint["state_dict"] = {name: state[name] for name in sorted(wanted)}


def require_same_tensors(checkpoint: dict[str, Any], backbone: Backbone) -> None:
    """Refuse a checkpoint whose adapters are not this run's.

    Loading is not strict, as the base is not in the checkpoint; so this is where a missing or a
    surplus tensor is found.

    Raises:
        UserError: Naming the first tensor that is missing, too much or of another shape.
    """
    ours = {f"backbone.{n}": p.shape for n, p in backbone.named_parameters() if p.requires_grad}
    theirs = {name: tensor.shape for name, tensor in checkpoint["state_dict"].items()}
    odd = ours.items() ^ theirs.items()
    if odd:
        raise UserError(
            f"checkpoint: not of this run's adapters: {min(odd)[0]} is on one side only, or of "
            "another shape",
            hint="resume with the config the checkpoint was written under",
        )


def trainable_names(backbone: Backbone) -> set[str]:
    """Names, under a module's ``backbone``, of the tensors that train."""
    return {f"backbone.{name}" for name, p in backbone.named_parameters() if p.requires_grad}
