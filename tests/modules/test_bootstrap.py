import pytest
import torch

from rlhf_forge.modules.bootstrap import bootstrap_counts, member_seeds, resampled


def test_the_first_member_starts_as_a_single_model_and_no_other_does() -> None:
    assert member_seeds(7, 1) == [7]
    three = member_seeds(7, 3)
    assert three[0] == 7
    assert len(set(three)) == 3
    assert member_seeds(7, 5)[:3] == three


def test_counts_are_a_function_of_the_position_and_the_member() -> None:
    whole = bootstrap_counts(0, 1, range(100))
    assert bootstrap_counts(0, 1, [99, 3]) == [whole[99], whole[3]]
    assert bootstrap_counts(0, 2, range(100)) != whole
    assert bootstrap_counts(1, 1, range(100)) != whole


def test_counts_are_poisson_of_mean_one() -> None:
    counts = torch.tensor(bootstrap_counts(0, 0, range(4000))).double()
    assert counts.mean().item() == pytest.approx(1.0, abs=0.05)
    assert counts.var().item() == pytest.approx(1.0, abs=0.1)
    # A third of the examples is never seen, as in any bootstrap.
    assert (counts == 0).double().mean().item() == pytest.approx(0.368, abs=0.03)


def test_scores_stand_as_often_as_drawn_and_give_gradients_so() -> None:
    positions = list(range(20))
    counts = bootstrap_counts(0, 1, positions)
    scores = torch.arange(40.0).view(2, 20).requires_grad_()
    drawn = resampled(scores, 0, 1, positions)
    assert drawn.shape == (2, sum(counts))
    [grad] = torch.autograd.grad(drawn.sum(), [scores])
    assert grad[1].tolist() == counts
