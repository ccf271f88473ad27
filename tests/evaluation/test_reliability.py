import math

import pytest
import torch
from torchmetrics.classification import BinaryCalibrationError

from rlhf_forge.evaluation.reliability import reliability_of


def test_bins_and_error_are_as_by_hand() -> None:
    # Sure of 0.75 and right once in two; sure of 0.9 and right.
    margins = [math.log(3), -math.log(3), math.log(9)]
    found = reliability_of(margins, [1.0, 1.0, 1.0])
    assert [(part.n, part.accuracy) for part in found.bins] == [(2, 0.5), (1, 1.0)]
    assert [part.confidence for part in found.bins] == pytest.approx([0.75, 0.9])
    assert found.error == pytest.approx((2 * 0.25 + 0.1) / 3)
    assert found.nll == pytest.approx(-(math.log(0.75) + math.log(0.25) + math.log(0.9)) / 3)


def test_the_error_is_that_which_training_logs() -> None:
    margins = torch.randn(300, generator=torch.Generator().manual_seed(0)) + 0.5
    wins = torch.sigmoid(margins)
    theirs = BinaryCalibrationError(n_bins=10)
    theirs.update(wins, torch.ones(300, dtype=torch.long))
    theirs.update(1 - wins, torch.zeros(300, dtype=torch.long))
    ours = reliability_of(margins.tolist(), [1.0] * 300)
    assert ours.error == pytest.approx(float(theirs.compute()), abs=1e-6)


def test_a_temperature_is_ruled_out_only_by_enough_pairs() -> None:
    # Sure of 0.98 and right 3 times in 4.
    margins = [4.0, 4.0, 4.0, -4.0]
    few, many = reliability_of(margins, [1.0] * 4), reliability_of(margins * 20, [1.0] * 80)
    assert few.temperature == pytest.approx(many.temperature)
    assert few.temperature == pytest.approx(4 / math.log(3))
    assert (few.off, many.off) == (False, True)


def test_the_fitted_temperature_explains_the_labels_better() -> None:
    found = reliability_of([4.0, -4.0, 4.0], [1.0] * 3)
    assert found.nll_fitted < found.nll


def test_a_tie_is_a_guess() -> None:
    found = reliability_of([0.0, 0.0], [1.0, 1.0])
    assert (found.error, found.bins[0].accuracy) == (0.0, 0.5)
    assert found.nll == pytest.approx(math.log(2))


def test_no_pairs_have_no_error() -> None:
    found = reliability_of([], [])
    assert (found.error, found.nll, found.bins, found.off) == (0.0, 0.0, [], False)
