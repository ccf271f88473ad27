"""Where chance comes from: a function of a seed, a purpose and a few numbers, never of a state."""

from zlib import crc32

import numpy as np


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A generator of its own for each (seed, purpose, numbers).

    The purpose keeps two uses of one seed apart, and a number more or less is another generator:
    numpy pads the entropy it is given with zeros, so a plain list [seed, 1] and [seed, 1, 0] would
    draw the same.

    Args:
        seed: Of the run or of the data.
        purpose: One word, such as shuffle.
        numbers: Such as iteration and row; each from 0 to below 2**32.

    Raises:
        ValueError: If a number is out of range.
    """
    if any(not 0 <= number < 2**32 for number in numbers):
        raise ValueError(f"numbers must be from 0 to below 2**32, got {numbers}")
    entropy = np.random.SeedSequence([seed, crc32(purpose.encode())], spawn_key=numbers)
    return np.random.default_rng(entropy)
