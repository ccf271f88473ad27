"""The annotator who labels pairs: follows the gold score, with a weakness and with slips.

    P(prefers the first) = 0.98 sigma(3 (gold_first + 0.2 - gold_second)) + 0.02 (1 - sigma(...))

The weakness is one that people have too: what is read first gets a head start.
"""

import math
import random
from collections.abc import Sequence

SLOPE = 3.0
"""Of the Bradley-Terry curve, per unit of gold."""
HEAD_START = 0.2
"""Gold units that the response read first is given."""
SLIPS = 0.02
"""Share of labels set down the wrong way round."""


def preference(gold_first: float, gold_second: float) -> float:
    """Probability that the annotator sets down the first of two responses as the better."""
    lead = SLOPE * (gold_first + HEAD_START - gold_second)
    believes = 1.0 / (1.0 + math.exp(-lead))
    return (1.0 - SLIPS) * believes + SLIPS * (1.0 - believes)


def label(gold_first: float, gold_second: float, rng: random.Random) -> bool:
    """Whether the annotator, shown the two in this order, prefers the first."""
    return rng.random() < preference(gold_first, gold_second)


def agreement(gold_first: float, gold_second: float) -> float:
    """Probability that the label is the one gold would give; 0.5 where gold is indifferent."""
    if gold_first == gold_second:
        return 0.5
    first = preference(gold_first, gold_second)
    return first if gold_first > gold_second else 1.0 - first


def ceiling(golds: Sequence[tuple[float, float]]) -> float:
    """Expected accuracy of gold itself on labels: what no reward model can beat for long.

    Args:
        golds: Gold scores of each pair, in the order in which the annotator read them.
    """
    return sum(agreement(first, second) for first, second in golds) / len(golds)
