"""Linear layers of one input under several roles at once, for a few rows without gradients.

The adapters of all roles are one narrow pair of matrices. Every row is multiplied with all of it,
and keeps what is of its own role: a fixed number of products, whatever roles the rows have.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf_forge.backbone.adapted_group import AdaptedGroup
from rlhf_forge.backbone.devices import kernels_build
from rlhf_forge.backbone.frozen_linear import frozen_product

# So few rows bitsandbytes multiplies faster than an unpacked weight does.
STOCK_ROWS = 4


class StackedGroup:
    """The layers of ``group`` with copies of the adapters of ``roles``, in one dtype.

    Args:
        group: Of a decoder layer.
        roles: In the order in which rows name them by number; one without adapter is the base.
        dtype: That the rows are computed in.
    """

    def __init__(self, group: AdaptedGroup, roles: Sequence[str], dtype: torch.dtype) -> None:
        self.group = group
        pairs = [
            [
                ((layer.lora_A[role] * layer.scaling[role]).to(dtype), layer.lora_B[role].to(dtype))
                for role in roles
                if role in layer.scaling
            ]
            for layer in group.layers
        ]
        downs = [down for of_layer in pairs for down, _ in of_layer]
        self._down = torch.cat(downs) if downs else None
        self._ups = [torch.cat([up for _, up in of_layer], dim=1) for of_layer in pairs if of_layer]

    def __call__(
        self,
        x: Float[Tensor, "rows inner"],
        own: Float[Tensor, "rows stacked"] | None,
        residual: Float[Tensor, "rows outer"] | None = None,
    ) -> Float[Tensor, "rows outer"]:
        """Outputs of all layers side by side, and the ``residual`` added.

        Args:
            x: One token of each row.
            own: 1 in the columns of the row's own role and 0 in those of others; None: all are.
            residual: To add.
        """
        narrow = self._narrow(x, own)
        if self._is_fused(x):
            return self._fused(x, narrow, residual)
        y = self._wide(x, residual)
        for part, up, out in zip(narrow, self._ups, self._split(y), strict=False):
            out.addmm_(part, up.T)
        return y

    def _wide(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """Outputs of the frozen layers, and the residual."""
        if self._is_4bit_on_gpu(x) and len(x) <= STOCK_ROWS:
            parts = [frozen_product(x[:, None], layer.frozen)[:, 0] for layer in self.group.layers]
            y = torch.cat(parts, dim=1)
            return y if residual is None else y + residual
        weight = self.group.weight(x.dtype)
        return x @ weight.T if residual is None else torch.addmm(residual, x, weight.T)

    def _narrow(self, x: Tensor, own: Tensor | None) -> tuple[Tensor, ...]:
        """Products with each layer's A of all roles, less those that are not the row's."""
        if self._down is None:
            return ()
        narrow = (x @ self._down.T).view(len(x), len(self._ups), -1)
        return (narrow if own is None else narrow * own.unsqueeze(1)).unbind(1)

    def _split(self, y: Tensor) -> tuple[Tensor, ...]:
        return torch.split(y, [layer.frozen.out_features for layer in self.group.layers], dim=1)

    def _is_fused(self, x: Tensor) -> bool:
        frozen = [layer.frozen for layer in self.group.layers]
        if not self._is_4bit_on_gpu(x) or not kernels_build():
            return False
        from rlhf_forge.backbone.nf4_kernel import few_rows

        rank = self._ups[0].shape[1] if self._ups else 0
        return all(few_rows(x, linear, rank) for linear in frozen)

    def _is_4bit_on_gpu(self, x: Tensor) -> bool:
        return x.is_cuda and hasattr(self.group.layers[0].frozen.weight, "quant_state")

    def _fused(self, x: Tensor, narrow: tuple[Tensor, ...], residual: Tensor | None) -> Tensor:
        from rlhf_forge.backbone.nf4_kernel import nf4_product

        y = x.new_empty(len(x), sum(layer.frozen.out_features for layer in self.group.layers))
        for place, (layer, out) in enumerate(zip(self.group.layers, self._split(y), strict=True)):
            nf4_product(
                x,
                layer.frozen,
                narrow=narrow[place] if narrow else None,
                up=self._ups[place] if narrow else None,
                residual=residual,
                out=out,
            )
        return y


def owners(group: AdaptedGroup, roles: Sequence[str]) -> Int[Tensor, "stacked"]:
    """For each column of the stacked adapters the number of the role that it is of."""
    layer = group.layers[0]
    widths = [len(layer.lora_A[role]) if role in layer.scaling else 0 for role in roles]
    numbers = torch.arange(len(roles)).repeat_interleave(torch.tensor(widths))
    return numbers.to(layer.frozen.weight.device)
