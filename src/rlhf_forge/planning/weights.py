"""Bytes of what is held all the time: the base, the adapters, gradients and Adam's moments."""

from dataclasses import dataclass

from rlhf_forge.backbone.config import Precision
from rlhf_forge.planning.shape import Shape

FLOAT32 = 4
COMPUTED_IN: dict[Precision, int] = {"fp32": 4, "bf16": 2, "nf4": 2}
# NF4: half a byte a number; an 8-bit scale for each 64 of them; a float32 scale for 256 of those.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Roles:
    """How many adapters a stage has.

    Attributes:
        trained: float32 masters, a gradient and two moments each.
        frozen: In the base's dtype.
    """

    trained: int
    frozen: int


def base_bytes(shape: Shape, precision: Precision) -> int:
    """The frozen base: linear layers as ``precision`` says, embeddings and norms never in 4 bit."""
    size = COMPUTED_IN[precision]
    each = NF4_BYTES if precision == "nf4" else size
    return round(shape.linear_weights * each) + shape.other_weights * size


def joined_bytes(shape: Shape, precision: Precision) -> int:
    """What a CPU holds twice: q, k and v, and gate and up, lie joined beside the file's pages."""
    if precision == "nf4":
        return 0
    joined = shape.layers * sum(inner * outer for inner, outer in shape.side_by_side)
    return joined * COMPUTED_IN[precision]


def adapter_bytes(shape: Shape, rank: int, roles: Roles, precision: Precision) -> int:
    """All adapters: float32 masters where they train, else the base's dtype."""
    numbers = shape.adapter(rank)
    return numbers * (FLOAT32 * roles.trained + COMPUTED_IN[precision] * roles.frozen)


def gradient_bytes(shape: Shape, rank: int, roles: Roles) -> int:
    """A gradient of each number that trains, float32."""
    return FLOAT32 * roles.trained * shape.adapter(rank)


def moment_bytes(shape: Shape, rank: int, roles: Roles, *, kept_state: bool) -> int:
    """AdamW's two moments of each number that trains, float32.

    Args:
        shape: Of the base.
        rank: Of the adapters.
        roles: Of the stage.
        kept_state: Whether the copy to go back to (weights and moments) lies in the same memory: it
            is in the CPU's.
    """
    copies = 2 + (3 if kept_state else 0)
    return copies * FLOAT32 * roles.trained * shape.adapter(rank)
