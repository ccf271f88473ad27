"""Sizes of memory as people write and read them."""

import re

from rlhf_forge.errors import UserError

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def bytes_of(text: str) -> int:
    """The bytes that a size such as 12GiB means.

    Raises:
        UserError: If it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?B)\s*", text)
    if match is None or float(match[1]) == 0:
        raise UserError(f"--memory: must be a size such as 12GiB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def gib(size: int) -> str:
    """Bytes in GiB, or MiB below a tenth of one."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.0f} MiB"
