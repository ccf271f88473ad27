"""Whether people agree with each other, and with themselves."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from rlhf_forge.evaluation.statistics import share_of
from rlhf_forge.serve.feedback.votes import Vote

# Below this many shared pairs agreement says little.
LEAST_SHARED = 30


def kappa(ours: Sequence[str], theirs: Sequence[str]) -> float | None:
    """Cohen's kappa of two people's choices on the same pairs, in their order.

    (p − e) / (1 − e) with p the share of equal choices and e the share to expect if both chose by
    chance, each as often as they do: 1 is full agreement, 0 that of chance, below 0 less.

    Returns:
        None where chance alone would give full agreement, or there are no choices.

    Source: Cohen 1960, https://doi.org/10.1177/001316446002000104.
    """
    n = len(ours)
    if n == 0:
        return None
    observed = sum(x == y for x, y in zip(ours, theirs, strict=True)) / n
    mine, yours = Counter(ours), Counter(theirs)
    expected = sum(mine[choice] * yours[choice] for choice in mine) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def self_consistency(repeated: Sequence[tuple[Vote, Vote]]) -> list[float]:
    """1 for each pair that was judged the same when it came back, else 0."""
    return [float(first.choice == later.choice) for first, later in repeated]


def between_people(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """Agreement of every two people who share enough pairs.

    Args:
        votes: One a person and pair; skips are left out by the caller.

    Returns:
        One entry for each two: names, number of shared pairs, share of equal choices with its
        interval, kappa.
    """
    choices: dict[tuple[str, str], dict[str, str]] = {}
    for vote in votes:
        choices.setdefault(vote.who, {})[vote.pair] = vote.choice or ""
    found = []
    for one, other in combinations(sorted(choices), 2):
        shared = sorted(choices[one].keys() & choices[other].keys())
        if len(shared) < LEAST_SHARED:
            continue
        ours, theirs = ([choices[who][pair] for pair in shared] for who in (one, other))
        equal = share_of([float(x == y) for x, y in zip(ours, theirs, strict=True)])
        names = [name_of(one), name_of(other)]
        found.append({"annotators": names, "equal": equal, "kappa": kappa(ours, theirs)})
    return found


def name_of(who: tuple[str, str]) -> str:
    """How a person is shown."""
    kind, name = who
    return name if kind == "name" else "(no name)"
