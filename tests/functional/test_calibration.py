import math

import pytest
import torch

from rlhf_forge.functional.calibration import COLDEST, HOTTEST, fitted_temperature


def ones(count: int) -> torch.Tensor:
    return torch.ones(count)


def test_margins_that_are_right_as_often_as_they_say_have_temperature_1() -> None:
    # A margin of log 3 says 3 of 4.
    margins = torch.tensor([1.0, 1.0, 1.0, -1.0]) * math.log(3)
    assert fitted_temperature(margins, ones(4)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("factor", [0.25, 2.0, 7.0])
def test_the_temperature_grows_with_the_margins(factor: float) -> None:
    margins = torch.tensor([1.0, 2.0, -0.5, 0.3])
    before = fitted_temperature(margins, ones(4))
    assert fitted_temperature(factor * margins, ones(4)) == pytest.approx(factor * before)


def test_no_other_temperature_predicts_the_labels_better() -> None:
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(200, generator=generator).double() + 0.7
    preference = torch.rand(200, generator=generator).double()

    def nll(temperature: float) -> float:
        lead = margins / temperature
        losses = preference * torch.nn.functional.softplus(-lead)
        return float((losses + (1 - preference) * torch.nn.functional.softplus(lead)).mean())

    best = fitted_temperature(margins, preference)
    assert nll(best) <= min(nll(best * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0))


def test_margins_that_are_all_right_or_all_wrong_are_at_the_ends() -> None:
    assert fitted_temperature(torch.tensor([1.0, 2.0]), ones(2)) == pytest.approx(COLDEST)
    assert fitted_temperature(torch.tensor([-1.0, -2.0]), ones(2)) == pytest.approx(HOTTEST)


def test_a_label_turned_round_is_a_margin_turned_round() -> None:
    margins = torch.tensor([1.0, 2.0, -0.5])
    turned = fitted_temperature(-margins, torch.zeros(3))
    assert fitted_temperature(margins, ones(3)) == pytest.approx(turned)


def test_no_pairs_have_temperature_1() -> None:
    assert fitted_temperature(torch.tensor([]), torch.tensor([])) == 1.0
