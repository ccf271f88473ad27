"""The fused 4-bit product against the unpacked weight, on a GPU."""

import pytest
import torch
from torch import Tensor, nn

from rlhf_forge.backbone.bitsandbytes_guard import import_bitsandbytes
from rlhf_forge.backbone.frozen_linear import dense_weight

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
# Of bf16 sums: half of the last of eight bits, in weights and in outputs.
RELATIVE = 2**-8


def layer(outer: int, inner: int) -> nn.Linear:
    layers = import_bitsandbytes().nn
    linear: nn.Linear = layers.Linear4bit(
        inner, outer, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
    )
    return linear.cuda()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


@pytest.mark.parametrize("rank", [0, 4, 40])
@pytest.mark.parametrize("rows", [1, 17, 33, 128])
@pytest.mark.parametrize("shape", [(128, 64), (4096, 14336), (14336, 4096), (1024, 4096)])
def test_the_product_is_that_of_the_unpacked_weight(
    shape: tuple[int, int], rows: int, rank: int
) -> None:
    from rlhf_forge.backbone.nf4_kernel import few_rows, nf4_product

    outer, inner = shape
    linear, x, residual = layer(outer, inner), noise(rows, inner), noise(rows, outer)
    wide, up = noise(rows, 3, max(rank, 1)), noise(outer, max(rank, 1))
    out = torch.full((rows, outer + 128), torch.nan, device="cuda", dtype=torch.bfloat16)
    assert few_rows(x, linear, rank)
    nf4_product(
        x,
        linear,
        narrow=wide[:, 1] if rank else None,
        up=up if rank else None,
        residual=residual,
        out=out[:, 128:],
    )
    expected = residual.float() + x.float() @ dense_weight(linear, torch.float32).T
    if rank:
        expected += wide[:, 1].float() @ up.float().T
    error = (out[:, 128:].float() - expected).norm() / expected.norm()
    assert error < RELATIVE
    assert out[:, :128].isnan().all()


def test_odd_widths_many_rows_and_many_roles_are_left_to_the_unpacked_product() -> None:
    from rlhf_forge.backbone.nf4_codes import MOST_ROWS
    from rlhf_forge.backbone.nf4_kernel import MOST_RANK, few_rows

    assert not few_rows(noise(MOST_ROWS + 1, 64), layer(128, 64), 4)
    assert not few_rows(noise(1, 64), layer(64, 64), 4)
    assert few_rows(noise(1, 64), layer(128, 64), MOST_RANK)
    assert not few_rows(noise(1, 64), layer(128, 64), MOST_RANK + 1)
