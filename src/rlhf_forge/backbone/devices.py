"""Where to compute when nobody says, and what can be built to compute with."""

import os
import shutil
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def kernels_build() -> bool:
    """Whether Triton is there, and what it needs: a C compiler and Python's headers."""
    chosen = os.environ.get("CC")
    # As Triton looks for them.
    compilers = ("gcc", "clang") if chosen is None else (chosen,)
    headers = Path(sysconfig.get_config_var("INCLUDEPY"), "Python.h")
    return (
        find_spec("triton") is not None
        and any(shutil.which(name) for name in compilers)
        and headers.is_file()
    )
