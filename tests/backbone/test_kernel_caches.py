import os
import subprocess
import sys

import pytest

from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.kernel_caches import CAPACITIES, KERNELS_KEPT, keep_few_kernels
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.functional.products import has_bf16_units
from tests import tiny

# Bytes that malloc has given out (arenas, and what is mapped) for a product of another shape.
PROGRAM = """
import ctypes
import torch
from rlhf_forge.backbone.kernel_caches import KERNELS_KEPT, keep_few_kernels
class Info(ctypes.Structure):
    _fields_ = [(str(number), ctypes.c_size_t) for number in range(10)]
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
def used():
    info = mallinfo()
    return getattr(info, "4") + getattr(info, "7")
square = torch.zeros(32, 32, dtype=torch.bfloat16)
square.float() @ square.float()
keep_few_kernels()
def products(first):
    for tokens in range(first, first + KERNELS_KEPT):
        torch.zeros(tokens, 32, dtype=torch.bfloat16) @ square
products(KERNELS_KEPT)
before = used()
products(2 * KERNELS_KEPT)
print((used() - before) // KERNELS_KEPT)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
@pytest.mark.skipif(not has_bf16_units("cpu"), reason="bf16 products are made in float32")
def test_products_of_new_shapes_take_no_more_memory_once_enough_are_kept() -> None:
    clean = {name: value for name, value in os.environ.items() if name not in CAPACITIES}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
    assert int(done.stdout) < 2**15  # half a MiB of one that is kept


def test_a_base_on_a_cpu_is_loaded_with_few_kernels_to_keep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in CAPACITIES:
        monkeypatch.delenv(name, raising=False)
    load_base(BackboneConfig(str(tiny.base())), tiny.CPU)
    assert [os.environ[name] for name in CAPACITIES] == [str(KERNELS_KEPT)] * 2


def test_a_number_of_kernels_that_the_user_has_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CAPACITIES:
        monkeypatch.setenv(name, "7")
    keep_few_kernels()
    assert [os.environ[name] for name in CAPACITIES] == ["7", "7"]
