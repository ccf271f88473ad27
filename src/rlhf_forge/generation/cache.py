"""Keys and values of the running rows, in slots that are allotted once and used again."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import PretrainedConfig

# Columns are allotted by so many at a time.
COLUMNS = 64


def columns_for(wanted: int, held: int) -> int:
    """Columns that are allotted where ``wanted`` are needed and ``held`` are there."""
    if wanted <= held:
        return held
    return -(-max(wanted, held * 3 // 2) // COLUMNS) * COLUMNS


class SlotCache:
    """Keys and values by slot and position: a token at position p of a row lies in column p.

    What a row before has left in a slot need not be cleared: a token sees the columns up to its own
    position only, and those its own row has written. A model's forward takes this as its cache.

    Args:
        config: Of the model.
        slots: Rows there is room for.
        device: Of the model.
        dtype: That the model computes in.

    Attributes:
        columns: Positions there is room for by now; see `reserve`.
        layers: Keys and values of each layer [slots, heads, columns or more, width].
        moves: How often they were put elsewhere, or some of them.
    """

    def __init__(
        self, config: PretrainedConfig, slots: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        self.slots, self.device = slots, device
        self.columns = self.moves = 0
        self.window: int | None = getattr(config, "sliding_window", None)
        # Zeros, not what memory holds: 0 times NaN is NaN, under a mask too.
        empty = torch.zeros(slots, heads, 0, width, device=device, dtype=dtype)
        self.layers = [(empty, empty.clone()) for _ in range(config.num_hidden_layers)]
        self._rows = slice(0, 0)
        self._seen = 0
        nothing = torch.zeros(0, 1, dtype=torch.long, device=device)
        self._index = (nothing, nothing)

    def reserve(self, columns: int) -> None:
        """Make room for so many positions; what is held stays, also where memory runs out."""
        if columns <= self.columns:
            return
        allotted = columns_for(columns, self.columns)
        self.moves += 1
        for number, (keys, values) in enumerate(self.layers):
            more = (0, 0, 0, allotted - keys.shape[2])
            self.layers[number] = (F.pad(keys, more), F.pad(values, more))
        self.columns = allotted

    def place(
        self, first: int, positions: Int[Tensor, "rows new"]
    ) -> Float[Tensor, "rows 1 new seen"]:
        """Say which tokens the next forward reads.

        Args:
            first: Slot of its first row; the others follow it.
            positions: Of each token; below ``columns``.

        Returns:
            The mask that makes each token see its row up to itself, within the model's window: 0
            there and very negative elsewhere.
        """
        self._rows = slice(first, first + len(positions))
        self._seen = int(positions.max()) + 1
        rows = torch.arange(first, first + len(positions), device=positions.device)
        self._index = (rows.unsqueeze(-1), positions)
        columns = torch.arange(self._seen, device=positions.device)
        own = positions[:, None, :, None]
        hidden = columns > own
        if self.window is not None:
            hidden |= columns <= own - self.window
        dtype = self.layers[0][0].dtype
        blank = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
        return blank.masked_fill_(hidden, torch.finfo(dtype).min)

    def update(
        self,
        key: Float[Tensor, "rows heads new width"],
        value: Float[Tensor, "rows heads new width"],
        layer: int,
        *_: Any,
        **__: Any,
    ) -> tuple[Float[Tensor, "rows heads seen width"], Float[Tensor, "rows heads seen width"]]:
        """Keep what a layer computed for the tokens that were placed; all that they may see."""
        rows, positions = self._index
        keys, values = self.layers[layer]
        keys[rows, :, positions] = key.transpose(1, 2)
        values[rows, :, positions] = value.transpose(1, 2)
        return keys[self._rows, :, : self._seen], values[self._rows, :, : self._seen]

    def copy(self, source: int, target: int, length: int) -> None:
        """Put the first ``length`` positions of one slot into another."""
        for keys, values in self.layers:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]
