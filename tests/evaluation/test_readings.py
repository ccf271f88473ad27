from dataclasses import replace

import pytest

from rlhf_forge.evaluation.readings import (
    Reading,
    best_by_judge,
    change,
    frontier_of,
    kept_by_judge,
    rise_at_equal_length,
    spread,
)

START = Reading(
    iteration=0,
    scores=[0.0, 1.0, 2.0],
    lengths=[10, 20, 30],
    kl=0.0,
    eos=1.0,
    repetition=0.0,
    distinct=1.0,
    judged=[1.0, 2.0, 3.0],
)


def test_a_rise_by_length_alone_is_none_at_equal_length() -> None:
    longer = replace(START, lengths=[30, 40, 50], scores=[2.0, 3.0, 4.0])
    assert rise_at_equal_length(START, longer) == pytest.approx(0.0)


def test_what_comes_on_top_of_length_is_left() -> None:
    longer = replace(START, lengths=[30, 40, 50], scores=[2.5, 3.5, 4.5])
    assert rise_at_equal_length(START, longer) == pytest.approx(0.5)


def test_shorter_responses_that_score_as_before_have_risen_at_equal_length() -> None:
    shorter = replace(START, lengths=[0, 10, 20])
    assert rise_at_equal_length(START, shorter) == pytest.approx(1.0)


def test_the_slope_is_that_within_both_readings_and_not_between_them() -> None:
    # By hand: sums of products 20 and -10, of squares 200 and 200: a slope of 10 / 400.
    other = replace(START, lengths=[50, 60, 70], scores=[5.5, 5.0, 4.5])
    assert rise_at_equal_length(START, other) == pytest.approx(4.0 - 40 * 10 / 400)


def test_without_differences_of_length_the_rise_is_the_rise() -> None:
    flat = replace(START, lengths=[10, 10, 10])
    assert rise_at_equal_length(flat, replace(flat, scores=[3.0, 3.0, 3.0])) == pytest.approx(2.0)


def test_the_best_is_the_first_of_those_with_the_highest_mean() -> None:
    best = replace(START, iteration=2, judged=[4.0, 4.0, 4.0])
    same = replace(best, iteration=4, judged=[3.0, 4.0, 5.0])
    assert best_by_judge([START, best, same]) is best


def test_a_rise_that_is_within_its_standard_error_is_none() -> None:
    # Differences of 1, 1 and -1: a mean of 1/3 with a standard error of 2/3.
    unsure = replace(START, iteration=2, judged=[2.0, 3.0, 2.0])
    sure = replace(START, iteration=4, judged=[1.9, 3.0, 3.9])
    assert kept_by_judge([START]) is START
    assert kept_by_judge([START, unsure]) is START
    assert kept_by_judge([START, unsure, sure]) is sure
    assert kept_by_judge([START, sure, unsure]) is sure


def test_small_rises_that_add_up_are_a_rise() -> None:
    # The first rises by less than its standard error, the second by more, from the start.
    small = replace(START, iteration=2, judged=[2.0, 3.0, 2.0])
    further = replace(START, iteration=4, judged=[3.0, 4.0, 2.5])
    assert kept_by_judge([START, small, further]) is further


def test_a_change_is_paired_by_prompt() -> None:
    found = change([1.0, 5.0, 9.0], [2.0, 6.0, 10.0])
    assert (found.value, found.se) == (1.0, 0.0)


def test_a_single_prompt_has_no_spread() -> None:
    assert spread([3.0]) == 0.0
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)


def test_the_frontier_counts_from_the_first_reading() -> None:
    readings = [replace(START, kl=k, judged=[2 + k**0.5] * 3) for k in (0.0, 1.0, 4.0, 9.0)]
    found = frontier_of(readings)
    assert found is not None
    assert (found.alpha, found.beta) == pytest.approx((1.0, 0.0), abs=1e-9)
