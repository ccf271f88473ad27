import pytest

from rlhf_forge.evaluation.statistics import Mean, Share, mean_of, share_of, wins_of


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
