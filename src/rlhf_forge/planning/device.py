"""The memory that is free on this machine, and what a run has taken of it."""

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")


def memory_available(device: torch.device) -> int:
    """Bytes that a run may take: free on the GPU, or free of what this process's group may have."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP / "memory.max").read_text())
        taken = int((CGROUP / "memory.current").read_text()) - _cached()
    except (OSError, ValueError):  # no such file, or "max"
        return free
    return min(free, limit - taken)


def _cached() -> int:
    """Bytes of files that were read or written: they count as taken and go when room is needed."""
    lines = (line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    return sum(int(size) for name, size in lines if name in {"active_file", "inactive_file"})


def resident() -> int:
    """Bytes that this process holds by now."""
    return int(psutil.Process().memory_info().rss)


def most_resident() -> int | None:
    """Most bytes that this process has ever held; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = (line.split() for line in status.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words and words[0] == "VmHWM:"), None)
