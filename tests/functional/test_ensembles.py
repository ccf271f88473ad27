import math

import pytest
import torch

from rlhf_forge.functional.ensembles import ensemble_score

SCORES = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 3.0]])


def test_mean_min_and_mean_less_spread_are_as_by_hand() -> None:
    assert ensemble_score(SCORES).tolist() == [3.0, 1.0]
    assert ensemble_score(SCORES, combination="min").tolist() == [1.0, 0.0]
    # Standard deviations 2 and the root of 3.
    found = ensemble_score(SCORES, spread_coef=0.5)
    assert found.tolist() == pytest.approx([2.0, 1 - math.sqrt(3) / 2])


def test_one_member_is_itself_to_the_bit() -> None:
    alone = torch.rand(1, 7)
    assert torch.equal(ensemble_score(alone), alone[0])
    assert torch.equal(ensemble_score(alone, spread_coef=2.0), alone[0])
    assert torch.equal(ensemble_score(alone, combination="min"), alone[0])


def test_members_that_agree_cost_nothing() -> None:
    same = torch.tensor([[2.0, -1.0]]).expand(4, 2)
    assert ensemble_score(same, spread_coef=3.0).tolist() == pytest.approx([2.0, -1.0])


def test_the_order_of_the_members_changes_nothing() -> None:
    for spread in (0.0, 1.0):
        ours = ensemble_score(SCORES, spread_coef=spread)
        assert torch.allclose(ours, ensemble_score(SCORES.flip(0), spread_coef=spread))


@pytest.mark.parametrize("spread", [-0.1, math.inf, math.nan])
def test_a_price_out_of_range_is_refused(spread: float) -> None:
    with pytest.raises(ValueError, match="spread_coef must be a finite number, 0 or more"):
        ensemble_score(SCORES, spread_coef=spread)


def test_the_lowest_score_takes_no_price() -> None:
    with pytest.raises(ValueError, match="spread_coef must be 0 with min"):
        ensemble_score(SCORES, combination="min", spread_coef=1.0)
