import math

import pytest

from rlhf_forge.evaluation.statistics import (
    Mean,
    Share,
    difference_of,
    mean_of,
    rank_correlation,
    share_of,
    wins_of,
)


@pytest.mark.parametrize(
    ("wins", "value", "low", "high"),
    [
        ([1.0] * 5 + [0.0] * 5, 0.5, 0.2366, 0.7634),
        ([1.0] * 10, 1.0, 0.7225, 1.0),
        ([0.0] * 10, 0.0, 0.0, 0.2775),
        ([0.5] * 10, 0.5, 0.2366, 0.7634),
    ],
)
def test_a_share_has_the_interval_of_wilson(
    wins: list[float], value: float, low: float, high: float
) -> None:
    share = share_of(wins)
    assert (share.value, share.n) == (value, 10)
    assert (share.low, share.high) == pytest.approx((low, high), abs=1e-4)


def test_a_share_of_no_cases_says_nothing() -> None:
    assert share_of([]) == Share(0.0, 0.0, 1.0, 0)


def test_a_mean_has_the_standard_error_of_a_sample() -> None:
    # Squared distances 4, 0, 4: variance 8 / 2, standard error 2 / sqrt(3).
    mean = mean_of([1.0, 3.0, 5.0])
    assert (mean.value, mean.n) == (3.0, 3)
    assert mean.se == pytest.approx(1.1547, abs=1e-4)


def test_one_case_has_no_standard_error_and_none_has_no_mean() -> None:
    assert mean_of([7.0]) == Mean(7.0, 0.0, 1)
    assert mean_of([]) == Mean(0.0, 0.0, 0)


def test_a_tie_is_half_a_win() -> None:
    assert wins_of([2.0, 1.0, 0.0], [1.0, 1.0, 1.0]) == [1.0, 0.5, 0.0]


def test_a_difference_is_a_share_between_minus_one_and_one() -> None:
    found = difference_of([1.0, 1.0, 0.0, -1.0])
    assert (found.value, found.n) == (0.25, 4)
    wins = share_of([1.0, 1.0, 0.5, 0.0])
    assert (found.low, found.high) == (2 * wins.low - 1, 2 * wins.high - 1)


def test_a_few_cases_that_agree_are_not_the_whole_truth() -> None:
    found = difference_of([1.0, 1.0])
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low < 0


def test_ranks_are_correlated_whatever_their_scale() -> None:
    lengths = [float(n) for n in range(20)]
    found = rank_correlation([n**3 for n in lengths], lengths)
    assert found.value == pytest.approx(1.0)
    assert 0.8 < found.low < 1.0
    assert rank_correlation([-n for n in lengths], lengths).value == pytest.approx(-1.0)


def test_the_interval_of_a_correlation_is_as_by_hand() -> None:
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 * 4 / (5 * 24) = 0.8.
    found = rank_correlation([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0])
    assert found.value == pytest.approx(0.8, abs=1e-5)
    wide = 1.959964 * math.sqrt((1 + 0.32) / 2)
    assert found.low == pytest.approx(math.tanh(math.atanh(0.8) - wide), abs=1e-4)


def test_too_few_ranks_or_equal_ones_tell_nothing() -> None:
    assert rank_correlation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).low == -1.0
    assert rank_correlation([1.0] * 9, [float(n) for n in range(9)]).value == 0.0
