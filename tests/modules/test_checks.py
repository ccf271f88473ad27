from dataclasses import replace
from typing import Any

import pytest
import torch

from rlhf_forge.errors import UserError
from rlhf_forge.modules.checks import (
    require_live_policy,
    require_sound_start,
    require_unit_ratio,
    require_untrained_loss,
    require_untrained_rewards,
    require_zero_kl,
    warn_if_cutting_pays,
    warn_if_none_ends,
)
from rlhf_forge.rollout import Rollout, score_rollout
from tests import tiny

TOKENS = tiny.rows(5, 8)
MASK = tiny.spans((2, 5), (3, 8))


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    return score_rollout(
        tiny.four_roles(tiny.open_tiny()),
        TOKENS,
        MASK,
        torch.tensor([True, True]),
        batches=[[0, 1]],
        temperature=1.0,
    )


def test_a_policy_equal_to_its_reference_passes(rollout: Rollout) -> None:
    require_zero_kl(rollout)


@pytest.mark.parametrize("gap", [1e-6, -1e-6, 0.19, float("nan")])
def test_one_log_prob_that_differs_is_refused_with_the_gap(rollout: Rollout, gap: float) -> None:
    moved = rollout.log_probs.clone()
    moved[1, 4] += gap
    with pytest.raises(UserError, match=r"KL\(policy, reference\) is not 0 at step 0") as caught:
        require_zero_kl(replace(rollout, log_probs=moved))
    assert "\n" not in str(caught.value)
    assert caught.value.hint is not None


@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_a_policy_that_is_heard_passes_and_stays_as_it_was_to_the_bit(precision: Any) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(precision))
    before = [parameter.clone() for parameter in backbone.parameters_of("policy")]
    require_live_policy(backbone, TOKENS[0, :3])
    after = backbone.parameters_of("policy")
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_policy_that_sampling_does_not_hear_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    sampled = backbone.next_logits

    def as_reference(*args: Any) -> torch.Tensor:
        with backbone.using("reference"):
            return sampled(*args)

    monkeypatch.setattr(backbone, "next_logits", as_reference)
    with pytest.raises(UserError, match="do not come from the policy's adapter") as caught:
        require_live_policy(backbone, TOKENS[0, :3])
    assert caught.value.hint is not None


def test_a_reference_that_moves_with_the_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    sampled = backbone.next_logits

    def as_policy(*args: Any) -> torch.Tensor:
        with backbone.using("policy"):
            return sampled(*args)

    monkeypatch.setattr(backbone, "next_logits", as_policy)
    with pytest.raises(UserError, match="moves the reference too"):
        require_live_policy(backbone, TOKENS[0, :3])


def test_responses_of_which_none_ended_are_told() -> None:
    with pytest.warns(UserWarning, match="no response of the first iteration ended by itself"):
        warn_if_none_ends(torch.tensor([False, False]))
    warn_if_none_ends(torch.tensor([False, True]))


def test_a_sound_start_is_all_of_these(rollout: Rollout) -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    require_sound_start(backbone, rollout, TOKENS[0, :3])
    moved = replace(rollout, log_probs=rollout.log_probs + 1e-6)
    with pytest.raises(UserError, match="is not 0 at step 0"):
        require_sound_start(backbone, moved, TOKENS[0, :3])
    cut = replace(rollout, finished=torch.zeros(2, dtype=torch.bool))
    with pytest.warns(UserWarning, match="ended by itself"):
        require_sound_start(backbone, cut, TOKENS[0, :3])


def test_a_first_ratio_of_one_passes() -> None:
    require_unit_ratio(1.0, 0.0)


@pytest.mark.parametrize(
    ("ratio_max", "approx_kl"),
    [(1.0000001, 0.0), (0.99, 0.0), (1.0, 1e-9), (float("nan"), 0.0), (1.0, float("nan"))],
)
def test_any_other_first_ratio_is_refused_with_its_causes(
    ratio_max: float, approx_kl: float
) -> None:
    with pytest.raises(UserError, match="first minibatch's ratio") as caught:
        require_unit_ratio(ratio_max, approx_kl)
    assert "\n" not in str(caught.value)
    assert caught.value.hint is not None


def test_rewards_of_an_untrained_policy_pass() -> None:
    require_untrained_rewards(torch.zeros(2, 3))
    require_untrained_rewards(torch.zeros(2, 0))


@pytest.mark.parametrize("gap", [1e-7, -1e-7, 0.3, float("nan")])
def test_one_implied_reward_that_is_not_0_is_refused_with_its_causes(gap: float) -> None:
    rewards = torch.zeros(2, 3)
    rewards[1, 2] = gap
    with pytest.raises(UserError, match=f"an implied reward is {abs(gap):.2g} at step 0") as caught:
        require_untrained_rewards(rewards)
    assert "\n" not in str(caught.value)
    assert caught.value.hint is not None


def test_the_loss_of_an_untrained_policy_passes() -> None:
    require_untrained_loss(0.6931472, 0.69314718)
    require_untrained_loss(25.0, 25.0)


@pytest.mark.parametrize("loss", [0.0, 0.6930, 0.6933, 1.386, float("nan")])
def test_any_other_loss_at_the_start_is_refused_with_its_causes(loss: float) -> None:
    with pytest.raises(UserError, match=r"the loss at step 0 is .*, not 0\.693147") as caught:
        require_untrained_loss(loss, 0.69314718)
    assert "\n" not in str(caught.value)
    assert caught.value.hint is not None


SCORES = torch.tensor([-2.0, 0.0, 1.0, 2.0, 9.0])
CUT = torch.tensor([True, True, True, True, False])


def test_a_penalty_milder_than_the_lower_quartile_of_scores_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"scores -0\.4, .* below -0\.5"):
        warn_if_cutting_pays(SCORES, CUT, penalty=0.4)


def test_a_penalty_below_the_lower_quartile_is_not_warned_of(
    recwarn: pytest.WarningsRecorder,
) -> None:
    warn_if_cutting_pays(SCORES, CUT, penalty=0.6)
    warn_if_cutting_pays(SCORES, torch.ones(5).bool(), penalty=0.0)
    warn_if_cutting_pays(SCORES, torch.zeros(5).bool(), penalty=0.0)
    assert not recwarn
