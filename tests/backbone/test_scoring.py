from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.testing import assert_close

from rlhf_forge.backbone.adapter_files import read_adapter, write_adapter
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import row_ends, row_width, score, surprise, values_before
from tests import tiny

LENGTHS = [9, 14, 6]
TOKENS = tiny.rows(*LENGTHS)
MASK = tiny.spans((4, 9), (5, 14), (2, 6))


def test_a_score_is_the_scalar_after_the_last_response_token() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    with backbone.using("reward"):
        scalars = backbone.scalars(TOKENS)
    assert_close(score(backbone, TOKENS, MASK), scalars[[0, 1, 2], [8, 13, 5]], atol=2e-6, rtol=0)


def test_a_score_does_not_read_what_stands_after_the_response() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    scores = score(backbone, TOKENS, MASK)
    noise = tiny.rows(14, 14, 14, seed=7)
    real = tiny.spans(*((0, length) for length in LENGTHS))
    assert torch.equal(score(backbone, torch.where(real, TOKENS, noise), MASK), scores)
    wide = score(backbone, F.pad(TOKENS, (0, 9), value=5), F.pad(MASK, (0, 9)))
    assert_close(wide, scores, atol=2e-5, rtol=0)


def test_the_critic_speaks_through_the_same_function() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    assert torch.equal(score(backbone, TOKENS, MASK, role="value"), score(backbone, TOKENS, MASK))


def test_a_value_is_what_the_critic_made_of_the_token_to_the_left() -> None:
    scalars = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, float("nan")]])
    mask = torch.tensor([[False, True, True, False], [False, False, True, True]])
    assert values_before(scalars, mask).tolist() == [[0.0, 1.0, 2.0, 0.0], [0.0, 0.0, 6.0, 7.0]]


def test_a_row_ends_after_its_last_response_token_and_an_empty_one_after_its_first_token() -> None:
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[0, 2] = mask[0, 4] = mask[1, 1] = True
    assert row_ends(mask) == [5, 2, 1]
    assert row_width(mask) == 5
    assert row_width(mask[2:]) == 1


def test_the_likelihood_feature_counts_only_what_the_reference_finds_implausible() -> None:
    log_probs = torch.tensor([[0.0, -1.0, -2.0, -5.0], [-9.0, -3.0, -4.0, float("nan")]])
    mask = torch.tensor([[True, True, True, True], [False, True, True, False]])
    assert surprise(log_probs, mask).tolist() == [-3.0, -3.0]


def test_what_the_reference_cannot_read_at_all_is_no_worse_than_ten_nats() -> None:
    log_probs = torch.tensor([[-11.0, 0.0], [-40.0, -40.0], [-12.0, -float("inf")]])
    mask = torch.ones(3, 2, dtype=torch.bool)
    assert surprise(log_probs, mask).tolist() == [-9.0, -10.0, -10.0]


def with_likelihood(weight: float) -> Backbone:
    backbone = tiny.open_tiny()
    sft = tiny.random_weights(backbone, seed=0)
    reward = tiny.random_weights(backbone, seed=1, head=True)
    assert reward.head is not None
    head = replace(reward.head, likelihood=weight)
    backbone.add_role("reference", sft, trainable=False)
    backbone.add_role("reward", replace(reward, head=head), trainable=True)
    return backbone


def test_with_the_likelihood_feature_a_score_is_the_heads_plus_its_weighted_share() -> None:
    backbone = with_likelihood(0.5)
    plain = score(tiny.four_roles(tiny.open_tiny()), TOKENS, MASK)
    with backbone.using("reference"):
        log_probs, _ = backbone.log_probs(TOKENS, MASK, temperature=1.0)
    expected = plain + 0.5 * surprise(log_probs, MASK) / 2.0
    assert_close(score(backbone, TOKENS, MASK), expected, atol=1e-5, rtol=0)
    assert torch.equal(
        score(backbone, TOKENS, MASK, ref_log_probs=log_probs), score(backbone, TOKENS, MASK)
    )


def test_the_weight_of_the_likelihood_feature_is_learnt_and_the_reference_is_not() -> None:
    backbone = with_likelihood(0.5)
    torch.autograd.backward(score(backbone, TOKENS, MASK).sum())
    weight = backbone.head("reward").likelihood
    assert weight is not None
    assert weight.grad is not None
    assert weight.grad != 0
    assert all(p.grad is None for p in backbone.parameters_of("reference"))


def test_the_likelihood_feature_survives_disk(tmp_path: Path) -> None:
    backbone = with_likelihood(0.25)
    backbone.set_scale("reward", mean=0.3, std=2.0, likelihood_mean=-1.5)
    write_adapter(backbone.weights_of("reward"), tmp_path, base="tiny")
    head = read_adapter(tmp_path).head
    assert head is not None
    assert (head.likelihood, head.likelihood_mean) == (0.25, -1.5)


def test_what_counts_as_no_surprise_is_taken_from_the_feature_and_not_from_the_head() -> None:
    backbone = with_likelihood(0.5)
    before, head = score(backbone, TOKENS, MASK), backbone.head("reward").weights()
    backbone.set_scale("reward", mean=head.mean, std=head.std, likelihood_mean=-3.0)
    assert_close(score(backbone, TOKENS, MASK), before + 0.5 * 3.0 / head.std)
