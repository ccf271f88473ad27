"""``env``: versions and devices, for a bug report."""

import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version

# Not required by name, but their versions change results or loading.
ALSO = ("tokenizers", "accelerate")


def env() -> int:
    """Print versions, device and threads, one a line."""
    rows = {"rlhf_forge": _version("rlhf_forge"), "python": platform.python_version()}
    rows |= {"platform": platform.platform()}
    rows |= {name: _version(name) for name in sorted({*_dependencies(), *ALSO})}
    rows |= _hardware()
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return 0


def _dependencies() -> list[str]:
    """Names of what rlhf_forge requires, extras aside."""
    import re

    lines = [line for line in requires("rlhf_forge") or [] if "extra ==" not in line]
    return [match.group() for line in lines if (match := re.match(r"[\w.-]+", line))]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _hardware() -> dict[str, str]:
    import torch

    rows = {
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "device": "cpu",
    }
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        rows["device"] = f"cuda {torch.version.cuda}: {torch.cuda.get_device_name()}"
        rows["device memory"] = f"{memory:.1f} GiB"
    return rows
