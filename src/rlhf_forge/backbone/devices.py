"""Where to compute when nobody says, and what can be built to compute with."""

import os
import shutil
from functools import cache
from importlib.util import find_spec

import torch


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def kernels_build() -> bool:
    """Whether Triton is there, and the C compiler that it needs."""
    compilers = (os.environ.get("CC"), "clang", "gcc", "cc")
    return find_spec("triton") is not None and any(shutil.which(name) for name in compilers if name)
