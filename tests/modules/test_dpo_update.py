from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.data.collate import PairBatch
from rlhf_forge.functional.losses import dpo_loss
from rlhf_forge.functional.preference_losses import ipo_loss, robust_dpo_loss
from rlhf_forge.modules.dpo_update import Loss, PairStats, PreferenceLoss, accumulate
from rlhf_forge.modules.reference_log_probs import response_log_probs
from tests import tiny

# Three pairs; chosen rows first.
ENDS = (9, 14, 6, 11, 8, 13)
TOKENS = tiny.rows(*ENDS)
RESPONSE = tiny.spans((4, 9), (5, 14), (2, 6), (4, 11), (5, 8), (2, 13))
BATCH = PairBatch(TOKENS, tiny.spans(*((0, end) for end in ENDS)), RESPONSE, torch.arange(3))
LENGTHS = RESPONSE.sum(-1).view(2, -1).float()
WHOLE = [[0, 1, 2]]
OBJECTIVES = [
    PreferenceLoss("sigmoid", 0.3, 0.0),
    PreferenceLoss("sigmoid", 0.3, 0.1),
    PreferenceLoss("ipo", 0.3, 0.0),
    PreferenceLoss("robust", 0.3, 0.1),
]


def moved() -> Backbone:
    """A backbone whose policy is not its reference."""
    backbone = tiny.open_tiny()
    backbone.add_role("reference", tiny.random_weights(backbone, seed=0), trainable=False)
    backbone.add_role("policy", tiny.random_weights(backbone, seed=1), trainable=True)
    return backbone


def run(objective: PreferenceLoss, cuts: Sequence[list[int]]) -> tuple[PairStats, Tensor]:
    """Statistics and the flat gradient of one step."""
    backbone = moved()
    with torch.no_grad():
        reference = response_log_probs(backbone, "reference", BATCH)
    stats = accumulate(
        backbone, BATCH, reference, objective, cuts=cuts, backward=torch.autograd.backward
    )
    parts = [p.grad.flatten() for p in backbone.parameters_of("policy") if p.grad is not None]
    return stats, torch.cat(parts)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("cuts", [[[2], [0], [1]], [[1, 0], [2]]])
def test_how_a_step_is_cut_into_micro_batches_changes_nothing(
    objective: PreferenceLoss, cuts: list[list[int]]
) -> None:
    whole, expected = run(objective, WHOLE)
    stats, gradient = run(objective, cuts)
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()
    assert_close(stats.loss, whole.loss)
    assert_close(stats.rewards, whole.rewards, rtol=1e-4, atol=1e-4)


def test_log_probs_are_sums_over_the_response_of_each_side() -> None:
    backbone = moved()
    with torch.no_grad():
        found = response_log_probs(backbone, "policy", BATCH)
        with backbone.using("policy"):
            for row, end in enumerate(ENDS):
                alone, _ = backbone.log_probs(
                    TOKENS[row : row + 1, :end], RESPONSE[row : row + 1, :end], temperature=1.0
                )
                assert_close(found.flatten()[row], alone.sum(), rtol=1e-4, atol=1e-4)


def test_each_loss_reads_what_its_paper_says() -> None:
    policy, reference = torch.randn(2, 2, 3)
    sums = (*policy, *reference)
    means = (*(policy / LENGTHS), *(reference / LENGTHS))
    expected = {
        "sigmoid": dpo_loss(*sums, beta=0.3, label_smoothing=0.1, num_pairs=7),
        "ipo": ipo_loss(*means, beta=0.3, num_pairs=7),
        "robust": robust_dpo_loss(*sums, beta=0.3, label_smoothing=0.1, num_pairs=7),
    }
    names: list[tuple[Loss, float]] = [("sigmoid", 0.1), ("ipo", 0.0), ("robust", 0.1)]
    for name, smoothing in names:
        loss = PreferenceLoss(name, 0.3, smoothing)
        assert_close(loss(policy, reference, LENGTHS, num_pairs=7), expected[name])


def test_rewards_are_beta_times_the_log_ratio_and_for_ipo_of_a_mean_token() -> None:
    ratios = torch.randn(2, 3)
    sums, means = PreferenceLoss("sigmoid", 0.3, 0.0), PreferenceLoss("ipo", 0.3, 0.0)
    assert_close(sums.rewards(ratios, LENGTHS), 0.3 * ratios)
    assert_close(means.rewards(ratios, LENGTHS), 0.3 * ratios / LENGTHS)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_a_policy_that_is_its_reference_has_no_rewards_and_the_loss_that_is_foretold(
    objective: PreferenceLoss,
) -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    with torch.no_grad():
        reference = response_log_probs(backbone, "reference", BATCH)
    stats = accumulate(
        backbone, BATCH, reference, objective, cuts=WHOLE, backward=lambda loss: None
    )
    assert not stats.rewards.any()
    assert stats.loss.item() == pytest.approx(objective.untrained, rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_a_step_against_the_gradient_widens_the_lead_of_chosen(objective: PreferenceLoss) -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    with torch.no_grad():
        reference = response_log_probs(backbone, "reference", BATCH)
    settings: dict[str, Any] = {"cuts": WHOLE, "backward": torch.autograd.backward}
    accumulate(backbone, BATCH, reference, objective, **settings)
    with torch.no_grad():
        for parameter in backbone.parameters_of("policy"):
            assert parameter.grad is not None
            parameter.sub_(parameter.grad / (1 + parameter.grad.norm()), alpha=1e-3)
    chosen, rejected = accumulate(backbone, BATCH, reference, objective, **settings).rewards
    assert (chosen - rejected).mean() > 0


@pytest.mark.parametrize(
    ("loss", "beta", "smoothing", "rule"),
    [
        ("sigmoid", 0.0, 0.0, "beta must be above 0 and finite, got 0.0"),
        ("sigmoid", 0.1, 0.5, "label_smoothing must be in [0, 0.5), got 0.5"),
        ("sigmoid", 0.1, -0.1, "label_smoothing must be in [0, 0.5), got -0.1"),
        ("ipo", 0.1, 0.1, "label_smoothing must be 0 where loss is ipo, got 0.1"),
        ("robust", 0.1, 0.0, "label_smoothing must be above 0 where loss is robust, got 0.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    loss: Loss, beta: float, smoothing: float, rule: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared
        PreferenceLoss(loss, beta, smoothing)
    assert str(caught.value) == rule
