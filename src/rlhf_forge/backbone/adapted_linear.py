"""A frozen linear layer and the LoRA update of every role on it.

peft's layers are not used under training: their ``set_adapter`` switches off the gradients of every
other adapter, their mixed batches refuse training mode, and gradient checkpointing recomputes with
whichever adapter is active by then. What is written to disk is peft's format.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from rlhf_forge.backbone.frozen_linear import frozen_product
from rlhf_forge.functional.products import product


@dataclass
class Selection:
    """The roles of the running forward; one object shared by all layers of a backbone.

    Attributes:
        groups: (role, its row numbers) pairs; None for the row numbers means all rows.
    """

    groups: list[tuple[str, Int[Tensor, "rows"] | None]] = field(default_factory=list)

    @contextmanager
    def of(self, groups: list[tuple[str, Int[Tensor, "rows"] | None]]) -> Iterator[None]:
        """These roles within the block; the state before comes back."""
        before, self.groups = self.groups, groups
        try:
            yield
        finally:
            self.groups = before


class AdaptedLinear(nn.Module):
    """``W x + (alpha / r) B A x`` with W frozen and A, B those of the selected role.

    A role without an adapter here gets ``W x``.

    Args:
        frozen: The layer of the base, dense or 4-bit.
        selection: Which role computes; shared.
    """

    def __init__(self, frozen: nn.Linear, selection: Selection) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.selection = selection
        self.lora_A = nn.ParameterDict()
        self.lora_B = nn.ParameterDict()
        self.scaling: dict[str, float] = {}

    def add(self, role: str, down: Tensor, up: Tensor, *, scaling: float, trainable: bool) -> None:
        """Give ``role`` the update ``scaling * up @ down``.

        Args:
            role: Name of the role.
            down: A, [r, in_features].
            up: B, [out_features, r].
            scaling: alpha / r.
            trainable: Whether A and B get gradients.
        """
        device = self.frozen.weight.device
        self.lora_A[role] = nn.Parameter(down.to(device), requires_grad=trainable)
        self.lora_B[role] = nn.Parameter(up.to(device), requires_grad=trainable)
        self.scaling[role] = scaling

    @override
    def forward(self, x: Float[Tensor, "batch time inner"]) -> Float[Tensor, "batch time outer"]:
        y = frozen_product(x, self.frozen)
        for role, rows in self.selection.groups:
            if role not in self.scaling:
                continue
            if rows is None:
                y = y + self._update(x, role)
            else:
                y = y.index_add(0, rows, self._update(x[rows], role))
        return y

    def _update(self, x: Tensor, role: str) -> Tensor:
        # The masters may be float32 while the base computes in bf16. All roles are cast alike, so
        # equal masters give equal bits.
        down, up = self.lora_A[role].to(x.dtype), self.lora_B[role].to(x.dtype)
        # Scaled where it is narrow: a pass over r numbers a token, not over all outputs.
        return product(product(x, down) * self.scaling[role], up)


def adaptable(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer of the decoder, by its name in the model; the LM head is left as it is."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }


def fresh_pair(
    linear: nn.Linear, rank: int, generator: torch.Generator
) -> tuple[Float[Tensor, "rank inner"], Float[Tensor, "outer rank"]]:
    """A new A and B for ``linear``, float32: A uniform as a linear layer's weight, B zero.

    With B zero the update is zero: a new role starts as the bare base (Hu et al. 2021,
    https://arxiv.org/abs/2106.09685, section 4.1).
    """
    bound = linear.in_features**-0.5
    # On the CPU, whatever device a Trainer makes the default: the same numbers everywhere.
    down = torch.empty(rank, linear.in_features, device="cpu")
    up = torch.zeros(linear.out_features, rank, device="cpu")
    return down.uniform_(-bound, bound, generator=generator), up
