import os
import subprocess
import sys
from typing import get_args

import pytest
import torch

from rlhf_forge.backbone.config import BackboneConfig, Precision
from rlhf_forge.backbone.kernel_caches import CAPACITIES, KERNELS_KEPT, keep_few_kernels
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.functional.products import has_bf16_units
from tests import tiny

# Bytes that malloc has given out (arenas, and what is mapped) for a product of another shape.
PROGRAM = """
import ctypes
import sys
import torch
from rlhf_forge.functional.products import MANY_ROWS, wide_product
from rlhf_forge.backbone.kernel_caches import KERNELS_KEPT, keep_few_kernels
dtype = getattr(torch, sys.argv[1])
kept = KERNELS_KEPT[dtype]
class Info(ctypes.Structure):
    _fields_ = [(str(number), ctypes.c_size_t) for number in range(10)]
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
def used():
    info = mallinfo()
    return getattr(info, "4") + getattr(info, "7")
square = torch.zeros(32, 32, dtype=dtype)
square.double() @ square.double()
keep_few_kernels(dtype)
def products(first):
    for tokens in range(first, first + kept):
        with torch.no_grad():
            wide_product(torch.zeros(MANY_ROWS + tokens, 32, dtype=dtype), square)
products(kept)
before = used()
products(2 * kept)
print((used() - before) // kept)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_products_of_new_shapes_take_no_more_memory_once_enough_are_kept(dtype: str) -> None:
    if dtype == "bfloat16" and not has_bf16_units("cpu"):
        pytest.skip("bf16 products are made in float32")
    clean = {name: value for name, value in os.environ.items() if name not in CAPACITIES}
    command = [sys.executable, "-c", PROGRAM, dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
    assert int(done.stdout) < 2**15  # half a MiB of one that is kept


@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_base_on_a_cpu_is_loaded_with_few_kernels_to_keep(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CAPACITIES:
        monkeypatch.delenv(name, raising=False)
    config = BackboneConfig(str(tiny.base()), precision)
    load_base(config, tiny.CPU)
    assert [os.environ[name] for name in CAPACITIES] == [
        str(KERNELS_KEPT[config.compute_dtype])
    ] * 2


def test_a_number_of_kernels_that_the_user_has_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CAPACITIES:
        monkeypatch.setenv(name, "7")
    keep_few_kernels(torch.float32)
    assert [os.environ[name] for name in CAPACITIES] == ["7", "7"]
