import math

import pytest
import torch
from torch import Tensor

from rlhf_forge.functional.frontier import LEAST_POINTS, T95, T95_BEYOND, fit_frontier


def curve(kl: Tensor, alpha: float, beta: float) -> Tensor:
    d = kl.sqrt()
    return d * (alpha - beta * d.log())


def points(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


KL = points(0.3, 0.8, 2.0, 3.5, 6.0, 11.0, 25.0)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.5), (0.4, 0.3), (-0.2, 0.1)])
def test_points_on_the_curve_give_its_coefficients_and_its_peak(alpha: float, beta: float) -> None:
    found = fit_frontier(KL, curve(KL, alpha, beta))
    assert found is not None
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta))
    assert found.peak is not None
    assert found.peak == pytest.approx([math.exp(2 * (alpha / beta - 1))] * 3, rel=1e-4)


def test_the_peak_is_where_no_other_kl_has_more() -> None:
    found = fit_frontier(KL, curve(KL, 1.0, 0.5))
    assert found is not None
    assert found.peak is not None
    at = found.peak.kl
    near = curve(points(at * 0.99, at, at * 1.01), found.alpha, found.beta)
    assert near.argmax() == 1


def test_the_unit_of_the_score_moves_no_peak() -> None:
    gains = curve(KL, 1.0, 0.5) + points(0.1, -0.1, 0.05, 0.0, -0.05, 0.1, -0.1)
    one, other = fit_frontier(KL, gains), fit_frontier(KL, 10 * gains)
    assert one is not None
    assert other is not None
    assert one.peak == pytest.approx(other.peak)


def test_the_interval_covers_the_peak_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    true, covered, runs = math.exp(2 * (1.0 / 0.5 - 1)), 0, 400
    for _ in range(runs):
        noise = 0.05 * torch.randn(len(KL), dtype=torch.float64, generator=generator)
        found = fit_frontier(KL, curve(KL, 1.0, 0.5) + noise)
        assert found is not None
        assert found.peak is not None
        covered += found.peak.low <= true <= found.peak.high
    # 95 % of 400 is 380, four standard deviations of a count are 17.
    assert abs(covered - 0.95 * runs) < 18


def test_a_score_that_only_rises_with_the_distance_has_no_peak_or_an_endless_interval() -> None:
    rising = fit_frontier(KL, curve(KL, 1.0, -0.2))
    assert rising is not None
    assert rising.beta == pytest.approx(-0.2)
    assert rising.peak is None
    straight = fit_frontier(KL, KL.sqrt())  # β is 0 but for rounding
    assert straight is not None
    assert straight.peak is None
    noisy = fit_frontier(KL, KL.sqrt() + points(-0.3, 0.3, -0.3, 0.3, -0.3, 0.3, -0.3))
    assert noisy is not None
    assert noisy.peak is None or noisy.peak.high > 100 * KL.max()


def test_a_score_that_only_falls_has_its_peak_before_the_first_point() -> None:
    found = fit_frontier(KL, -KL.sqrt() * (1 + KL.sqrt().log() / 4))
    assert found is not None
    assert found.peak is not None
    assert found.peak.kl < KL.min()


@pytest.mark.parametrize(
    "kl",
    [
        (),
        (1.0, 2.0),
        (1.0, 1.0, 1.0, 2.0),
        (0.0, 0.0, 1.0, 2.0),
        (-0.1, 1.0, 2.0),
    ],
)
def test_fewer_than_three_different_kl_above_0_give_no_curve(kl: tuple[float, ...]) -> None:
    assert LEAST_POINTS == 3
    assert fit_frontier(points(*kl), points(*kl)) is None


def test_a_point_at_kl_0_changes_nothing() -> None:
    gains = curve(KL, 1.0, 0.5)
    more = fit_frontier(torch.cat([points(0.0), KL]), torch.cat([points(0.7), gains]))
    assert more == fit_frontier(KL, gains)


def test_student_s_quantiles_fall_to_that_of_the_normal_distribution() -> None:
    assert sorted(T95, reverse=True) == list(T95)
    assert T95[-1] > T95_BEYOND > 1.96
