"""What `PPOModule` makes of its keys: each test fails if the module leaves its key unread.

The critic's targets tell most of it: with lambda 1 they are the rewards still to come, whatever
the critic believes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.__main__ import main
from rlhf_forge.functional.advantages import explained_variance
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.ppo_update import UpdateStats
from rlhf_forge.modules.settings import ObjectiveSettings, RolloutSettings, UpdateSettings
from rlhf_forge.rollout import Rollout
from tests.countable import PROMPTS, Size, all_responses
from tests.countable_ppo import Seen, module_on, read_scores_from, train, watch
from tests.tiny_project import QUIET

pytestmark = QUIET
SIZE = Size(vocab=3, longest=2)
ROWS, PENALTY = 32, 0.4
PRICE = 0.25
OBJECTIVE = set(ObjectiveSettings.__dataclass_fields__)
PLAIN_OBJECTIVE: dict[str, Any] = {
    "kl_coef": PRICE,
    "score_clip": 99.0,
    "missing_eos_penalty": PENALTY,
}
PLAIN_UPDATES: dict[str, Any] = {
    "ppo_epochs": 1,
    "minibatch_size": ROWS,
    "gae_lambda": 1.0,
    "target_kl": None,
    "learning_rate": 7e-3,
    "value_learning_rate": 1e-2,
}


@dataclass
class Run:
    """A module that has been trained, and its iterations."""

    module: PPOModule
    seen: list[Seen]

    def metric(self, name: str) -> float:
        """Of the last iteration."""
        return float(self.module.trainer.callback_metrics[name])


Runner = Callable[..., Run]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Trains with some keys; the others are as they are least in the way."""
    count = len(PROMPTS) * len(all_responses(SIZE))
    scores = torch.linspace(-2, 2, count).view(len(PROMPTS), -1)
    read_scores_from(scores, SIZE, monkeypatch)

    def trained(iterations: int = 1, *, each: int = 1, **keys: Any) -> Run:
        objective = PLAIN_OBJECTIVE | {key: keys.pop(key) for key in set(keys) & OBJECTIVE}
        module = module_on(
            SIZE,
            iterations=iterations,
            rollout=RolloutSettings(SIZE.longest, 0.7, responses_per_prompt=each),
            objective=ObjectiveSettings(**objective),
            updates=UpdateSettings(**(PLAIN_UPDATES | keys)),
        )
        with pytest.MonkeyPatch.context() as patch:
            seen = watch(patch)
            train(module, prompts=ROWS // each)
        assert len(seen) == iterations
        return Run(module, seen)

    return trained


def to_come(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over this and all later response tokens of a row."""
    sums = torch.where(mask, values, 0).flip(1).cumsum(1).flip(1)
    return torch.where(mask, sums, 0)


def targets(
    rollout: Rollout, *, price: float, clip: float = 99.0, penalty: float = PENALTY
) -> Tensor:
    """Of the critic: the score, and the price of the KL still to come."""
    scores = torch.where(rollout.finished, rollout.scores.clamp(-clip, clip), -penalty)
    kl = to_come(rollout.log_probs - rollout.ref_log_probs, rollout.mask)
    return torch.where(rollout.mask, scores.unsqueeze(1) - price * kl, 0)


def test_log_probs_are_those_of_the_temperature(run: Runner) -> None:
    done = run()
    rollout, backbone = done.seen[0].rollout, done.module.backbone
    with torch.no_grad(), backbone.using("reference"):
        expected, entropy = backbone.log_probs(rollout.tokens, rollout.mask, temperature=0.7)
    assert_close(rollout.ref_log_probs, expected)
    assert_close(rollout.log_probs, expected)
    assert_close(rollout.entropy, entropy)
    assert [terms.temperature for terms in done.seen[0].terms] == [0.7]


# -- what is rewarded --------------------------------------------------------------------------


def test_scores_are_clipped_and_those_of_cut_responses_replaced_by_the_penalty(run: Runner) -> None:
    seen = run(score_clip=0.5, missing_eos_penalty=0.7).seen[0]
    assert 0 < seen.rollout.finished.sum() < ROWS
    assert (seen.rollout.scores.abs() > 0.5).any()
    expected = targets(seen.rollout, price=0.0, clip=0.5, penalty=0.7)
    assert_close(seen.experience.returns, expected)


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_the_price_of_kl_is_paid_in_the_reward_or_in_the_loss_and_never_in_both(
    run: Runner, kl_in: str
) -> None:
    seen = run(2, kl_in=kl_in).seen[1]
    assert (seen.rollout.log_probs != seen.rollout.ref_log_probs).any()
    in_reward = kl_in == "reward"
    expected = targets(seen.rollout, price=PRICE if in_reward else 0.0)
    assert_close(seen.experience.returns, expected)
    assert [terms.kl_coef for terms in seen.terms] == [0.0 if in_reward else PRICE]


@pytest.mark.parametrize("scale", [True, False])
def test_rewards_are_divided_by_their_spread_if_told_so(run: Runner, scale: bool) -> None:
    seen = run(scale_rewards=scale).seen[0]
    returns, mask = seen.experience.returns, seen.rollout.mask
    rewards = returns - torch.nn.functional.pad(returns[:, 1:], (0, 1))
    assert (abs(rewards[mask].std() - 1) < 1e-5) == scale
    plain = targets(seen.rollout, price=0.0)
    assert_close(returns / returns.abs().max(), plain / plain.abs().max())


def test_the_price_of_kl_is_steered_by_the_kl_of_a_whole_response(run: Runner) -> None:
    keys = {"kl_horizon": 100, "learning_rate": 3e-2}
    rollout = run(2, **keys).seen[1].rollout
    kl = float((rollout.log_probs - rollout.ref_log_probs).sum(1).mean())
    assert kl > 0.1
    steered = run(2, kl_target=kl / 1.1, **keys)
    fallen = PRICE * (1 - 0.2 * ROWS / 100)
    assert steered.metric("objective/kl_coef") == pytest.approx(fallen), "in the first it was 0"
    assert_close(steered.seen[1].experience.returns, targets(rollout, price=fallen))
    assert steered.module.kl_coef == pytest.approx(fallen * (1 + 0.1 * ROWS / 100))


def test_a_price_of_kl_without_a_target_stays(run: Runner) -> None:
    assert run(2).module.kl_coef == PRICE


def test_the_price_of_kl_is_kept_in_the_checkpoint(run: Runner) -> None:
    module = run(kl_target=1.0, kl_horizon=100).module
    price = module.kl_coef
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    module.kl_coef = 0.0
    module.on_load_checkpoint(checkpoint)
    assert module.kl_coef == price != PRICE


# -- what is learnt from -----------------------------------------------------------------------


def test_cut_responses_are_left_out_of_all_that_is_learnt_and_measured_if_told_so(
    run: Runner,
) -> None:
    whole, filtered = run(2), run(2, learn_from_cut=False)
    assert torch.equal(whole.seen[1].experience.learnt, whole.seen[1].rollout.mask)
    seen = filtered.seen[1]
    finished = seen.rollout.mask & seen.rollout.finished.unsqueeze(1)
    assert 0 < finished.sum() < seen.rollout.mask.sum()
    assert torch.equal(seen.experience.learnt, finished)
    share = explained_variance(seen.rollout.values, seen.experience.returns, finished)
    assert filtered.metric("value/explained_variance") == pytest.approx(float(share))


def test_the_critics_targets_have_a_lambda_of_their_own(run: Runner) -> None:
    seen = run(2, gae_lambda=0.0, value_gae_lambda=1.0).seen[1]
    assert_close(seen.experience.returns, targets(seen.rollout, price=PRICE))
    same = run(2, gae_lambda=0.0).seen[1]
    assert (same.experience.returns - targets(same.rollout, price=PRICE)).abs().max() > 1e-2


@pytest.mark.parametrize("advantage", ["rloo", "grpo", "dr_grpo"])
def test_without_a_critic_a_response_is_compared_with_the_others_to_its_prompt(
    run: Runner, advantage: str
) -> None:
    seen = run(advantage=advantage, each=4).seen[0]
    mask = seen.rollout.mask
    first = mask.int().argmax(1, keepdim=True)
    scores = targets(seen.rollout, price=0.0).gather(1, first).view(-1, 4)
    leads = scores - scores.mean(1, keepdim=True)
    assert leads.any()
    expected = {
        "rloo": leads * 4 / 3,
        "dr_grpo": leads,
        "grpo": leads / (scores.std(1, keepdim=True) + 1e-4),
    }[advantage].view(-1, 1)
    assert_close(seen.experience.advantages, torch.where(mask, expected, 0))
    assert not seen.experience.returns.any()


# -- how it is learnt --------------------------------------------------------------------------


def test_each_epoch_takes_a_step_for_each_minibatch(run: Runner) -> None:
    updates = run(ppo_epochs=3, minibatch_size=8).seen[0].updates
    assert len(updates) == 3 * ROWS / 8
    assert all(update.taken for update in updates)


def test_an_update_that_went_too_far_ends_the_iteration_and_leaves_nothing_behind(
    run: Runner,
) -> None:
    stopped, once = run(2, ppo_epochs=4, target_kl=1e-9), run(2, ppo_epochs=1)
    for seen in stopped.seen:
        assert [update.taken for update in seen.updates] == [True, False]
        assert seen.updates[1].approx_kl > 1e-9
    for one, other in zip(stopped.seen, once.seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.after, other.after, strict=True))
    assert len(run(2, ppo_epochs=4).seen[1].updates) == 4
    assert stopped.metric("policy/updates") == 1


def test_the_critic_learns_alone_for_as_many_iterations_as_asked(run: Runner) -> None:
    for warmup in (0, 1):
        first, second = run(2, value_warmup_iterations=warmup).seen
        policy, critic = zip(first.before, first.after, strict=True)
        assert torch.equal(*policy) == bool(warmup)
        assert not torch.equal(*critic)
        assert not torch.equal(second.before[0], second.after[0])


def test_without_a_critic_no_iteration_is_kept_for_it(run: Runner) -> None:
    [first] = run(1, each=2, advantage="rloo", value_warmup_iterations=1).seen
    assert not torch.equal(first.before[0], first.after[0])


def test_both_rates_rise_and_then_fall_to_nothing(run: Runner) -> None:
    seen = run(4, warmup_iterations=1).seen
    policy, critic = zip(*(s.rates for s in seen), strict=True)
    shares = [1 / 2, 1, 2 / 3, 1 / 3]
    assert policy == pytest.approx([7e-3 * share for share in shares])
    assert critic == pytest.approx([1e-2 * share for share in shares])


def moved(seen: Seen) -> float:
    """Largest step of any weight."""
    return max(float((a - b).abs().max()) for a, b in zip(seen.after, seen.before, strict=True))


@pytest.mark.parametrize("key", [{"max_grad_norm": 1e-9}, {"eps": 1e3}], ids=str)
def test_gradients_that_are_cut_short_or_drowned_in_eps_move_next_to_nothing(
    run: Runner, key: dict[str, float]
) -> None:
    assert moved(run(**key).seen[0]) < 1e-4 < moved(run().seen[0])


@pytest.mark.parametrize("advantage", ["gae", "rloo", "grpo", "dr_grpo"])
def test_only_with_gae_is_there_a_role_of_a_critic(
    advantage: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles: list[set[str]] = []
    learn = PPOModule.learn

    def noting(self: PPOModule, *arguments: Any) -> list[UpdateStats]:
        roles.append(self.backbone.roles)
        return learn(self, *arguments)

    monkeypatch.setattr(PPOModule, "learn", noting)
    keys = ["--model.init_args.updates.advantage", advantage, "--trainer.limit_val_batches", "0"]
    keys += ["--model.init_args.rollout.responses_per_prompt", "2"]
    assert main(["fit", "--config", "ppo.yaml", "--run", "x", *keys]) == 0
    others = {"policy", "reference", "reward"}
    assert roles[0] == (others | {"value"} if advantage == "gae" else others)
