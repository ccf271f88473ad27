"""How much responses repeat themselves, and one another, by their tokens."""

from collections.abc import Sequence
from statistics import fmean

# Four tokens in a row that come again are no accident of grammar.
REPEATED = 4
BIGRAM = 2


def repetition(responses: Sequence[Sequence[int]]) -> float:
    """Share of each response's 4-grams that it has said before, mean over the responses.

    A response of fewer than four tokens repeats nothing; 0 for no responses.

    Source: seq-rep-4 of Welleck et al. 2020, https://arxiv.org/abs/1908.04319, section 3.
    """
    return fmean(map(_repeated, responses)) if responses else 0.0


def distinct_bigrams(responses: Sequence[Sequence[int]]) -> float:
    """Different pairs of neighbouring tokens over all such pairs, of all responses together.

    It falls with the number and the length of the responses: compare it on the same prompts only.
    0 for responses without a pair.

    Source: distinct-2 of Li et al. 2016, https://arxiv.org/abs/1510.03055, section 5.
    """
    pairs = [pair for response in responses for pair in _grams(response, BIGRAM)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def _repeated(response: Sequence[int]) -> float:
    grams = _grams(response, REPEATED)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _grams(response: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(response[at : at + size]) for at in range(len(response) - size + 1)]
