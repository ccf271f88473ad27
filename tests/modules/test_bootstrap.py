import pytest
import torch

from rlhf_forge.data.collate import PairBatch
from rlhf_forge.modules.bootstrap import as_drawn, bootstrap_counts, member_seeds


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


def test_a_pair_counts_as_often_as_it_is_drawn_times_what_it_counted_before() -> None:
    positions = torch.arange(20)
    tokens = torch.zeros(40, 3, dtype=torch.long)
    batch = PairBatch(tokens, tokens.bool(), tokens.bool(), positions)
    counts = bootstrap_counts(0, 1, positions.tolist())
    alone = as_drawn(batch, 0, 1).weight
    assert alone is not None
    assert alone.tolist() == counts
    halved = as_drawn(batch._replace(weight=torch.full((20,), 0.5)), 0, 1).weight
    assert halved is not None
    assert halved.tolist() == [count / 2 for count in counts]
