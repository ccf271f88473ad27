"""What a backbone is made of: the part of every config that the stages share."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from typing_extensions import override

from rlhf_forge.errors import UserError

Precision = Literal["nf4", "bf16", "fp32"]


def precision_named(name: str) -> Precision:
    """The precision that an artefact's manifest names.

    Raises:
        UserError: If there is none of that name.
    """
    for precision in get_args(Precision):
        if precision == name:
            known: Precision = precision
            return known
    raise UserError(f"no precision {name!r}: must be one of {', '.join(get_args(Precision))}")


@dataclass(frozen=True)
class LoraSpec:
    """The shape of every role's adapter, on all linear layers of the decoder.

    Args:
        r: Rank of the update B A.
        alpha: The update is scaled by alpha / r.
    """

    r: int = 16
    alpha: int = 32

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha <= 0:
            raise ValueError(f"lora must have positive r and alpha, got {self}")

    @override
    def __str__(self) -> str:
        return f"r {self.r}, alpha {self.alpha}"


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen base and the adapters on it.

    Args:
        path: Folder of the base, a hub name like mistralai/Mistral-7B-v0.3, or
            package:toy_world/base for the tiny base that comes with rlhf_forge.
        precision: How the frozen base is held: nf4 (4 bit, double quantisation, computes in
            bf16), bf16 or fp32. Adapters compute in the base's dtype; those that train keep
            fp32 masters.
        lora: r (rank) and alpha (scale) of the adapters; none: r 16, alpha 32 where an adapter is
            new, and where a stage goes on with one, its shape.
        gradient_checkpointing: Recompute each layer in the backward pass: less memory, a third
            more time.
    """

    path: str
    precision: Precision = "nf4"
    lora: LoraSpec | None = None
    gradient_checkpointing: bool = False

    @property
    def compute_dtype(self) -> torch.dtype:
        """The one dtype in which the base and all adapters compute."""
        return torch.float32 if self.precision == "fp32" else torch.bfloat16
