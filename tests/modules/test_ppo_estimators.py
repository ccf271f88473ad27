from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.modules.ppo_estimators import (
    estimate_advantages,
    learnt_tokens,
    scaled,
    shaped_scores,
)
from rlhf_forge.modules.settings import Advantage, ObjectiveSettings, UpdateSettings
from rlhf_forge.rollout import Rollout

MASK = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0]]).bool()
REWARDS = torch.tensor([[0.0, 1, 2, 0], [0, 0, 0, 5], [0, 4, 0, 0], [0, 1, 1, 0]])
ROLLOUT = Rollout(
    tokens=torch.zeros(4, 4, dtype=torch.long),
    mask=MASK,
    finished=torch.tensor([True, False, True, True]),
    log_probs=torch.zeros(4, 4),
    ref_log_probs=torch.zeros(4, 4),
    values=torch.where(MASK, 0.5, 0.0),
    scores=torch.tensor([9.0, 1.0, -9.0, 0.5]),
    entropy=torch.zeros(4, 4),
)


def estimated(advantage: Advantage = "gae", **keys: float | bool | None) -> tuple[Tensor, Tensor]:
    settings = UpdateSettings(advantage=advantage, **keys)  # type: ignore[arg-type]
    return estimate_advantages(ROLLOUT, REWARDS, settings, responses_per_prompt=2)


def leads(advantage: Advantage) -> list[float]:
    """The advantage of each response, which all its tokens share."""
    advantages, returns = estimated(advantage)
    assert not returns.any()
    found = [set(row[mask].tolist()) for row, mask in zip(advantages, MASK, strict=True)]
    assert all(len(values) == 1 for values in found)
    assert not advantages[~MASK].any()
    return [values.pop() for values in found]


def test_rloo_compares_with_the_other_responses_to_the_prompt() -> None:
    assert leads("rloo") == pytest.approx([-2.0, 2.0, 2.0, -2.0])


def test_dr_grpo_compares_with_the_mean_of_all_responses_to_the_prompt() -> None:
    assert leads("dr_grpo") == pytest.approx([-1.0, 1.0, 1.0, -1.0])


def test_grpo_scales_by_the_spread_among_them() -> None:
    assert leads("grpo") == pytest.approx([-(0.5**0.5), 0.5**0.5, 0.5**0.5, -(0.5**0.5)], rel=1e-3)


def test_gae_whitens_over_the_whole_rollout_and_returns_are_not_whitened() -> None:
    advantages, returns = estimated(gae_lambda=1.0)
    assert advantages[MASK].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert advantages[MASK].std().item() == pytest.approx(1.0, rel=1e-5)
    assert_close(returns[0], torch.tensor([0.0, 3.0, 2.0, 0.0]))


def test_what_comes_later_is_discounted() -> None:
    _, returns = estimated(gae_lambda=1.0, gamma=0.5)
    assert_close(returns[0], torch.tensor([0.0, 1 + 0.5 * 2, 2.0, 0.0]))
    _, returns = estimated(gae_lambda=1.0, value_gae_lambda=1.0, gamma=0.5)
    assert_close(returns[0], torch.tensor([0.0, 1 + 0.5 * 2, 2.0, 0.0]))


def test_a_lambda_of_its_own_moves_the_critics_targets_and_not_the_advantages() -> None:
    advantages, returns = estimated(gae_lambda=0.0, value_gae_lambda=1.0)
    same, others = estimated(gae_lambda=0.0)
    assert_close(advantages, same)
    assert_close(returns[0], torch.tensor([0.0, 3.0, 2.0, 0.0]))
    assert (returns != others).any()


def test_cut_responses_teach_nothing_if_told_so_and_are_still_compared_with() -> None:
    settings = UpdateSettings(learn_from_cut=False)
    assert not learnt_tokens(ROLLOUT, settings)[1].any()
    assert torch.equal(learnt_tokens(ROLLOUT, settings)[[0, 2, 3]], MASK[[0, 2, 3]])
    advantages, _ = estimated("rloo", learn_from_cut=False)
    assert advantages[:, 1].tolist() == [-2.0, 0.0, 2.0, -2.0]


def test_scores_are_clipped_before_the_rule_for_cut_responses() -> None:
    objective = ObjectiveSettings(score_clip=2.0, missing_eos_penalty=3.0)
    assert shaped_scores(ROLLOUT, objective).tolist() == [2.0, -3.0, -2.0, 0.5]


def test_scaled_rewards_have_unit_spread_and_keep_their_sign() -> None:
    rewards = scaled(REWARDS, MASK)
    assert rewards[MASK].std().item() == pytest.approx(1.0, rel=1e-5)
    assert torch.equal(rewards.sign(), REWARDS.sign())


def test_a_group_of_equals_has_no_lead() -> None:
    equal = replace(ROLLOUT)
    advantages, _ = estimate_advantages(
        equal, torch.zeros(4, 4), UpdateSettings(advantage="grpo"), responses_per_prompt=2
    )
    assert not advantages.any()
