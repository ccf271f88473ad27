"""Freed memory stays with the process: what a CPU step frees, the next one takes again."""

import ctypes
import sys

# Names and numbers of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
ONE_GIBIBYTE = 2**30


def keep_freed_memory() -> bool:
    """Have malloc give no memory back to the system; True if it can be told so.

    glibc maps large blocks anew each time and trims the heap when they are freed. Every step then
    meets fresh pages, which the system must first fill with zeros: up to a fifth of the processor
    time of a bf16 step. Between its peaks the process holds on to what it has freed.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(name, ONE_GIBIBYTE) for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))


def give_freed_memory_back() -> bool:
    """Have malloc return what was freed so far; True if it can be told so.

    For where tensors of one kind end and others begin, not for every step: what is taken again
    comes in fresh pages.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return False
    trim(0)
    return True
