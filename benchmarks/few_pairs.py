"""Few pairs of the toy world, for reward models that are poor on purpose in overoptimisation.py."""

from typing import Any

from rlhf_forge.toy_world import records

NUMBER = 32


def pairs(*, seed: int, split: str) -> list[dict[str, Any]]:
    """The first `NUMBER` pairs to train on; those held out are all there."""
    drawn = records.pairs(seed=seed, split=split)
    return drawn[:NUMBER] if split == "train" else drawn
