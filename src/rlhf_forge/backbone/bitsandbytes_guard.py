"""Importing bitsandbytes and peft without letting them fetch code.

On CPUs with AVX512-BF16 (and on Apple's) ``import bitsandbytes`` asks the package ``kernels`` for a
binary from the hub and runs it. peft imports bitsandbytes. Nothing is fetched that the config does
not name, so both are imported here and only here, with ``kernels`` out of reach for the moment.
"""

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

QUIET_LOGGER = "bitsandbytes.backends.cpu.ops"


@contextmanager
def hub_kernels_blocked() -> Iterator[None]:
    """Make ``import kernels`` fail inside the block, and silence the warning that it failed."""
    missing = object()
    before = sys.modules.get("kernels", missing)
    logger = logging.getLogger(QUIET_LOGGER)
    level = logger.level
    sys.modules["kernels"] = None  # type: ignore[assignment]  # Python's own way to forbid a module
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is missing:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before  # type: ignore[assignment]


@cache
def import_bitsandbytes() -> ModuleType:
    """The package bitsandbytes, imported without hub kernels."""
    with hub_kernels_blocked():
        return importlib.import_module("bitsandbytes")


@cache
def import_peft() -> ModuleType:
    """The package peft, imported without hub kernels."""
    with hub_kernels_blocked():
        return importlib.import_module("peft")
