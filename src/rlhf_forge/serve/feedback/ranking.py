"""Strengths of models from who won against whom."""

import math
from collections import defaultdict
from collections.abc import Sequence

Game = tuple[str, str, float]
# One drawn game between any two: a model that never lost is strong, but not infinitely so.
DRAWN_BEFOREHAND = 1.0
MOST_ROUNDS = 10_000


def bradley_terry(games: Sequence[Game]) -> dict[str, float]:
    """Log-strength of each model, the strongest first; they add up to 0.

    A model of log-strength s beats one of log-strength t with probability σ(s − t): a lead of 1
    means odds of e to 1. The maximum of the likelihood is found by minorisation-maximisation.

    Args:
        games: Two different models, and the first one's result: 1 won, 0.5 drawn, 0 lost.

    Source: Bradley & Terry 1952; Hunter 2004, https://doi.org/10.1214/aos/1079120141, eq. 3.
    """
    models = sorted({model for first, second, _ in games for model in (first, second)})
    wins: dict[str, float] = defaultdict(float)
    met: dict[tuple[str, str], float] = defaultdict(float)
    drawn = [(m, n, 0.5, DRAWN_BEFOREHAND) for i, m in enumerate(models) for n in models[:i]]
    for first, second, result, weight in [*drawn, *((*game, 1.0) for game in games)]:
        wins[first] += weight * result
        wins[second] += weight * (1 - result)
        met[first, second] += weight
        met[second, first] += weight
    strength = dict.fromkeys(models, 1.0)
    for _ in range(MOST_ROUNDS):
        before = dict(strength)
        for m in models:
            against = sum(met[m, n] / (strength[m] + strength[n]) for n in models if n != m)
            strength[m] = wins[m] / against
        mean = math.exp(sum(map(math.log, strength.values())) / max(len(models), 1))
        strength = {m: value / mean for m, value in strength.items()}
        if all(math.isclose(strength[m], before[m], rel_tol=1e-9) for m in models):
            break
    logs = {m: math.log(value) for m, value in strength.items()}
    return dict(sorted(logs.items(), key=lambda item: -item[1]))
