"""One new token for each of a few rows: the forward that generation spends its time in.

It has one shape for a number of rows and of columns seen, launches little and asks nothing of the
host, so that on a GPU it can be captured once and replayed. What it computes is tested against the
stock decoder's forward.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rlhf_forge.backbone.attention import plain_attention
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.packed_attention import rotated
from rlhf_forge.backbone.stacked_adapters import StackedGroup, owners
from rlhf_forge.backbone.swiglu import swiglu
from rlhf_forge.functional.products import product

Cache = Sequence[tuple[Tensor, Tensor]]


class DecodeStep:
    """The decoder under some roles; with copies of their adapters as they are now.

    Args:
        backbone: With these roles.
        roles: That rows may have.

    Raises:
        ValueError: If the backbone's decoder does not pack.
    """

    def __init__(self, backbone: Backbone, roles: Sequence[str]) -> None:
        packed, lm_head = backbone.packed, backbone.model.lm_head.weight
        if packed is None:
            raise ValueError("only a decoder that packs has a decode step of its own")
        self.roles = tuple(roles)
        self._decoder, self._lm_head = packed.decoder, lm_head
        self._layers = [_Layer(layer, roles, lm_head.dtype) for layer in packed.layers]
        self._owners = owners(packed.layers[0].out, roles)

    @torch.no_grad()
    def __call__(
        self,
        tokens: Int[Tensor, "rows"],
        positions: Int[Tensor, "rows"],
        roles: Int[Tensor, "rows"],
        cache: Cache,
        seen: int,
    ) -> Float[Tensor, "rows vocab"]:
        """Logits after each token, float32.

        Args:
            tokens: The newest of each row.
            positions: Where they stand; below ``seen``.
            roles: Number of each row's role.
            cache: Keys and values of each layer [slots, heads, columns, width], those of a row in
                the slot of its number. The token's own are put in.
            seen: Columns that are looked at.
        """
        states = self._decoder.embed_tokens(tokens)
        own = (self._owners == roles[:, None]).to(states.dtype) if len(self.roles) > 1 else None
        place = _Place(self._decoder, states, positions, seen)
        for layer, (keys, values) in zip(self._layers, cache, strict=True):
            states = layer(states, own, place, keys, values)
        return product(_norm(self._decoder.norm, states), self._lm_head).float()


class _Place:
    """Where the tokens of a step stand, for every layer."""

    def __init__(self, decoder: Any, states: Tensor, positions: Tensor, seen: int) -> None:
        self.rows = torch.arange(len(positions), device=positions.device)
        self.positions, self.seen = positions, seen
        angles = decoder.rotary_emb(states, positions[:, None])
        # Both halves of a head are turned by the same angles.
        self.cos, self.sin = (table[..., : table.shape[-1] // 2] for table in angles)
        hidden = torch.arange(seen, device=positions.device) > positions[:, None]
        blank = torch.zeros(hidden.shape, dtype=states.dtype, device=states.device)
        self.mask = blank.masked_fill_(hidden, torch.finfo(states.dtype).min)[:, None, None]


class _Layer:
    """One layer of the decoder, as `DecodeStep` calls it."""

    def __init__(self, layer: Any, roles: Sequence[str], dtype: torch.dtype) -> None:
        self.norms, self.heads = layer.norms, layer.heads
        self.qkv, self.out, self.gate_up, self.down = (
            StackedGroup(group, roles, dtype)
            for group in (layer.qkv, layer.out, layer.gate_up, layer.down)
        )

    def __call__(
        self, states: Tensor, own: Tensor | None, place: _Place, keys: Tensor, values: Tensor
    ) -> Tensor:
        heads = self.heads
        qkv = self.qkv(_norm(self.norms[0], states), own).view(len(states), -1, heads.width)
        turned = rotated(qkv[:, : heads.queries + heads.keys], place.cos, place.sin)
        keys[place.rows, :, place.positions] = turned[:, heads.queries :]
        values[place.rows, :, place.positions] = qkv[:, heads.queries + heads.keys :]
        mixed, _ = plain_attention(
            self.norms[0],
            turned[:, : heads.queries].unsqueeze(2),
            keys[: len(states), :, : place.seen],
            values[: len(states), :, : place.seen],
            place.mask,
            heads.scaling,
        )
        states = self.out(mixed.flatten(1), own, states)
        return self.down(swiglu(self.gate_up(_norm(self.norms[1], states), own)), own, states)


def _norm(module: Any, states: Tensor) -> Tensor:
    return F.rms_norm(states, states.shape[-1:], module.weight, module.variance_epsilon)
