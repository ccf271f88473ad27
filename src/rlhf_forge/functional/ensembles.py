"""One score from the scores of several reward models."""

import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Combination = Literal["mean", "min"]


def ensemble_score(
    scores: Float[Tensor, "members batch"],
    *,
    combination: Combination = "mean",
    spread_coef: float | int = 0.0,
) -> Float[Tensor, "batch"]:
    """The score of each response by all members of an ensemble together.

        mean:   mean − spread_coef · std        (std with Bessel's correction; 0 for one member)
        min:    the lowest                      (worst-case optimisation)

    Both distrust what members disagree about; neither sees what they are all wrong about, and
    members that learnt from the same pairs on the same base share much of that.

    Args:
        scores: One row a member, in the same units.
        combination: Which of the two.
        spread_coef: What a unit of spread costs, 0 or more; 0 with ``min``.

    Returns:
        One score a response, in the units of ``scores``; of a single member its own, to the bit.

    Raises:
        ValueError: If ``spread_coef`` is out of range.

    Source: Coste et al. 2024, https://arxiv.org/abs/2310.02743, section 3.
    """
    if not 0 <= spread_coef < math.inf or (combination == "min" and spread_coef):
        rule = "0 with min" if combination == "min" else "a finite number, 0 or more"
        raise ValueError(f"spread_coef must be {rule}: got {spread_coef}")
    if len(scores) == 1:
        return scores[0]
    if combination == "min":
        return scores.amin(0)
    mean = scores.mean(0)
    return mean - spread_coef * scores.std(0) if spread_coef else mean
