import pytest
import torch
from torch import Tensor

from rlhf_forge.modules.ppo_update import UpdateStats, accumulate
from rlhf_forge.modules.settings import UpdateSettings
from rlhf_forge.rollout import Experience, minibatches, plan_updates, score_rollout
from tests import tiny

TOKENS = tiny.rows(9, 14, 6, 11)
MASK = tiny.spans((4, 9), (5, 14), (2, 6), (3, 11))
FINISHED = torch.ones(4, dtype=torch.bool)
SETTINGS = UpdateSettings(minibatch_size=4)


def gradients(batches: list[list[int]]) -> tuple[UpdateStats, Tensor]:
    """Statistics and flat gradient of one step over all rows, cut into ``batches``."""
    backbone = tiny.four_roles(tiny.open_tiny())
    rollout = score_rollout(backbone, TOKENS, MASK, FINISHED, batches=batches, temperature=0.7)
    generator = torch.Generator().manual_seed(3)
    # Off-policy on purpose, so that clipping has something to do.
    noise = 0.3 * torch.randn(TOKENS.shape, generator=generator)
    experience = Experience(
        tokens=TOKENS,
        mask=MASK,
        old_log_probs=rollout.log_probs + noise,
        old_values=rollout.values + noise,
        advantages=torch.randn(TOKENS.shape, generator=generator),
        returns=torch.randn(TOKENS.shape, generator=generator),
    )
    stats = accumulate(
        backbone,
        [experience.rows(rows) for rows in batches],
        SETTINGS,
        temperature=0.7,
        backward=torch.autograd.backward,
    )
    trained = [p for role in ("policy", "value") for p in backbone.parameters_of(role)]
    return stats, torch.cat([p.grad.flatten() for p in trained if p.grad is not None])


@pytest.mark.parametrize("batches", [[[1], [3], [0], [2]], [[1, 3], [0, 2]], [[1, 0, 2], [3]]])
def test_how_a_step_is_cut_into_micro_batches_changes_nothing(batches: list[list[int]]) -> None:
    whole, expected = gradients([[0, 1, 2, 3]])
    stats, gradient = gradients(batches)
    assert (gradient - expected).norm() <= 1e-5 * expected.norm()
    assert stats.approx_kl == pytest.approx(whole.approx_kl, rel=1e-4)
    assert stats.clip_fraction == pytest.approx(whole.clip_fraction)
    assert stats.ratio_max == pytest.approx(whole.ratio_max, rel=1e-4)


def test_clipping_and_gradients_were_really_at_work_in_these_tests() -> None:
    stats, gradient = gradients([[0, 1, 2, 3]])
    assert 0 < stats.clip_fraction < 1
    assert stats.value_clip_fraction > 0
    assert gradient.norm() > 0


@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_the_first_minibatch_has_ratio_one_and_no_kl(precision: str) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(precision))  # type: ignore[arg-type]
    plan = plan_updates(
        [9, 14, 6, 11], epochs=1, minibatch_size=2, max_tokens=14, seed=0, iteration=0
    )
    batches = [rows for minibatch in plan[0] for rows in minibatch]
    rollout = score_rollout(backbone, TOKENS, MASK, FINISHED, batches=batches, temperature=1.0)
    assert torch.equal(rollout.log_probs, rollout.ref_log_probs)
    zeros = torch.zeros(TOKENS.shape)
    experience = Experience(TOKENS, MASK, rollout.log_probs, rollout.values, zeros + 1, zeros)
    first = next(iter(minibatches(experience, plan)))
    stats = accumulate(backbone, first, SETTINGS, temperature=1.0, backward=torch.autograd.backward)
    assert stats.ratio_max == 1.0
    assert stats.approx_kl == 0.0
    assert stats.clip_fraction == 0.0
