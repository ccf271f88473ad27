"""What a step learns where rows share a prompt, against the same step with every row by itself."""

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.packing import pack
from rlhf_forge.backbone.scoring import member_score, score
from rlhf_forge.data.collate import PairBatch
from rlhf_forge.modules.dpo_update import PreferenceLoss
from rlhf_forge.modules.dpo_update import accumulate as accumulate_dpo
from rlhf_forge.modules.ppo_update import Counts, PolicyTerms, accumulate
from rlhf_forge.modules.reference_log_probs import response_log_probs
from rlhf_forge.modules.reward_update import PairLoss
from rlhf_forge.modules.settings import UpdateSettings
from rlhf_forge.rollout import Experience, Rollout, score_rollout
from tests import tiny

# Three prompts with two responses each, the first responses first; the last two begin alike.
PROMPTS, ENDS = (12, 9, 20), (17, 20, 31, 15, 12, 26)
STARTS = PROMPTS * 2
MASK = tiny.spans(*zip(STARTS, ENDS, strict=True))


def shared_tokens() -> Tensor:
    tokens = tiny.rows(*ENDS)
    for first, (prompt, more) in enumerate(zip(PROMPTS, (0, 0, 3), strict=True)):
        tokens[first + 3, : prompt + more] = tokens[first, : prompt + more]
    return tokens


TOKENS = shared_tokens()
BATCH = PairBatch(TOKENS, tiny.spans(*((0, end) for end in ENDS)), MASK, torch.arange(3))
# Takes a backbone; gives numbers that a step reports, and leaves its gradients.
Learn = Callable[[Backbone], Tensor]


def learn_reward(backbone: Backbone) -> Tensor:
    losses = []
    for role in ("reward", "reward~1"):
        scores = member_score(backbone, TOKENS, MASK, role=role).view(2, -1)
        losses.append(PairLoss(0.1, 0.01, 0.0, False)(BATCH, *scores, num_pairs=3))
        losses[-1].backward()  # type: ignore[no-untyped-call]
    return torch.stack(losses).detach()


def learn_dpo(backbone: Backbone) -> Tensor:
    with torch.no_grad():
        reference = response_log_probs(backbone, "reward", BATCH)
    stats = accumulate_dpo(
        backbone,
        BATCH,
        reference,
        PreferenceLoss("sigmoid", 0.3, 0.0),
        cuts=[[0, 1, 2]],
        backward=torch.autograd.backward,
    )
    return torch.cat([stats.loss[None], stats.rewards.flatten()])


def learn_ppo(backbone: Backbone) -> Tensor:
    rollout = rollout_of(backbone)
    generator = torch.Generator().manual_seed(3)
    noise = 0.3 * torch.randn(TOKENS.shape, generator=generator)
    moved = replace(rollout, log_probs=rollout.log_probs + noise, values=rollout.values + noise)
    advantages, returns = torch.randn(2, *TOKENS.shape, generator=generator)
    stats = accumulate(
        backbone,
        [Experience.of(moved, MASK, advantages, returns)],
        UpdateSettings(minibatch_size=6, entropy_coef=0.1),
        PolicyTerms(temperature=0.7, max_new_tokens=12, kl_coef=0.2),
        backward=torch.autograd.backward,
        counts=Counts.of([MASK], 12),
    )
    return torch.tensor([stats.approx_kl, stats.ratio_max, stats.clip_fraction])


def rollout_of(backbone: Backbone) -> Rollout:
    finished = torch.ones(len(TOKENS), dtype=torch.bool)
    return score_rollout(backbone, TOKENS, MASK, finished, batches=[[*range(6)]], temperature=0.7)


def opened() -> Backbone:
    """All roles, and a second reward model; all of them trained but the reference."""
    backbone = tiny.open_tiny()
    scorer, second = (tiny.random_weights(backbone, seed=seed, head=True) for seed in (1, 2))
    reference, policy = (tiny.random_weights(backbone, seed=seed) for seed in (3, 4))
    backbone.add_role("reference", reference, trainable=False)
    backbone.add_role("policy", policy, trainable=True)
    backbone.add_role("value", scorer, trainable=True)
    backbone.add_role("reward", replace(scorer, members=(second,)), trainable=True)
    return backbone


def learnt(learn: Learn) -> tuple[Tensor, Tensor]:
    backbone = opened()
    numbers = learn(backbone)
    grads = [p.grad.flatten() for p in backbone.parameters() if p.grad is not None]
    return numbers, torch.cat(grads)


@pytest.mark.parametrize("learn", [learn_reward, learn_dpo, learn_ppo])
def test_losses_and_gradients_are_those_of_every_row_by_itself(
    learn: Learn, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pack(TOKENS, MASK).shared == 12 + 9 + 23
    ours = learnt(learn)
    monkeypatch.setattr("rlhf_forge.backbone.prefixes.PREFIX_COST", sys.maxsize)
    assert pack(TOKENS, MASK).shared == 0
    for together, apart in zip(ours, learnt(learn), strict=True):
        assert apart.norm() > 0
        assert (together - apart).norm() <= 1e-5 * apart.norm()


def test_so_are_scores_and_all_that_a_rollout_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> dict[str, Tensor]:
        rollout = vars(rollout_of(opened()))
        with torch.no_grad():
            return rollout | {"ensemble": score(opened(), TOKENS, MASK)}

    ours = told()
    monkeypatch.setattr("rlhf_forge.backbone.prefixes.PREFIX_COST", sys.maxsize)
    for name, apart in told().items():
        error = ours[name].float() - apart.float()
        assert error.norm() <= 1e-5 * apart.float().norm(), name
