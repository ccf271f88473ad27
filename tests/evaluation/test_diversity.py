import pytest

from rlhf_forge.evaluation.diversity import distinct_bigrams, repetition


def test_repetition_by_hand() -> None:
    # 4-grams of 1 2 3 1 2 3 1: 1231 2312 3123 1231, of which one came before.
    assert repetition([[1, 2, 3, 1, 2, 3, 1]]) == pytest.approx(1 / 4)


def test_repetition_is_within_a_response_and_a_mean_over_them() -> None:
    assert repetition([[1, 2, 3, 4], [1, 2, 3, 4]]) == 0.0
    assert repetition([[5] * 5, [1, 2, 3, 4]]) == pytest.approx(1 / 4)


def test_short_responses_and_none_repeat_nothing() -> None:
    assert repetition([[7, 7, 7], []]) == 0.0
    assert repetition([]) == 0.0


def test_distinct_bigrams_are_counted_over_all_responses() -> None:
    # 12 23 and 12 24: three of four differ.
    assert distinct_bigrams([[1, 2, 3], [1, 2, 4]]) == pytest.approx(3 / 4)
    assert distinct_bigrams([[9, 9, 9, 9, 9]]) == pytest.approx(1 / 4)


def test_without_bigrams_none_is_distinct() -> None:
    assert distinct_bigrams([[1], []]) == 0.0
    assert distinct_bigrams([]) == 0.0
