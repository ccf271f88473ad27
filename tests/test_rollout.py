from itertools import chain

import pytest
import torch
from torch.testing import assert_close

from rlhf_forge.backbone.config import Precision
from rlhf_forge.backbone.packing import to_the_left
from rlhf_forge.backbone.scoring import score, values_before
from rlhf_forge.data.collate import micro_batches
from rlhf_forge.rollout import (
    Experience,
    Plan,
    Rollout,
    RowTokens,
    fitting,
    plan_updates,
    score_rollout,
)
from tests import tiny

LENGTHS = [9, 14, 6, 11, 14, 7, 3, 10]
TOKENS = tiny.rows(*LENGTHS)
MASK = tiny.spans(*((max(1, length // 3), length) for length in LENGTHS))
FINISHED = torch.tensor([True, True, False, True, False, True, True, True])
TEMPERATURE = 0.7


def apart(lengths: list[int]) -> RowTokens:
    """Of rows that share no prompt."""
    return RowTokens(lengths, list(range(len(lengths))), [0] * len(lengths))


def plan_of(
    lengths: list[int], *, seed: int = 0, iteration: int = 0, max_tokens: int = 30, size: int = 4
) -> Plan:
    return plan_updates(
        apart(lengths),
        epochs=2,
        minibatch_size=size,
        max_tokens=max_tokens,
        seed=seed,
        iteration=iteration,
    )


def scored(
    precision: Precision, batches: list[list[int]], *, checkpointing: bool = False
) -> Rollout:
    backbone = tiny.four_roles(tiny.open_tiny(precision, checkpointing=checkpointing))
    return score_rollout(backbone, TOKENS, MASK, FINISHED, batches=batches, temperature=TEMPERATURE)


def experience_of(rollout: Rollout) -> Experience:
    advantages, returns = torch.randn(2, *rollout.tokens.shape)
    return Experience.of(rollout, rollout.mask, advantages, returns)


# -- the plan ----------------------------------------------------------------------------------


def test_each_epoch_holds_each_row_exactly_once_in_minibatches_of_one_size() -> None:
    plan = plan_of(LENGTHS)
    assert len(plan) == 2
    for epoch in plan:
        sizes = [sum(len(micro) for micro in minibatch) for minibatch in epoch]
        assert sizes == [4, 4]
        assert sorted(chain(*chain(*epoch))) == list(range(8))


def test_no_micro_batch_is_wider_than_allowed_except_for_a_single_long_row() -> None:
    for micro in chain(*chain(*plan_of(LENGTHS, max_tokens=20))):
        assert len(micro) * max(LENGTHS[row] for row in micro) <= 20
    assert all(len(micro) == 1 for micro in chain(*chain(*plan_of(LENGTHS, max_tokens=1))))


def minibatch_sets(plan: Plan) -> list[list[set[int]]]:
    return [[set(chain(*minibatch)) for minibatch in epoch] for epoch in plan]


def test_a_permutation_is_a_function_of_seed_iteration_and_epoch() -> None:
    lengths = [5] * 64
    plans = [
        plan_of(lengths, seed=seed, iteration=iteration, size=8)
        for seed, iteration in ((0, 0), (0, 1), (1, 0))
    ]
    assert plan_of(lengths, seed=0, iteration=0, size=8) == plans[0]
    epochs = [str(epoch) for plan in plans for epoch in plan]
    assert len(set(epochs)) == 6


def test_who_meets_in_a_minibatch_does_not_depend_on_micro_batches() -> None:
    wide, narrow = plan_of(LENGTHS, max_tokens=1000), plan_of(LENGTHS, max_tokens=15)
    assert wide != narrow
    assert minibatch_sets(wide) == minibatch_sets(narrow)


def test_a_minibatch_that_does_not_divide_the_rollout_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"48 responses in minibatches of 32 leave 16"):
        plan_of([5] * 48, size=32)


# -- experience --------------------------------------------------------------------------------


def test_rows_of_an_experience_are_cut_to_the_longest_of_them() -> None:
    experience = experience_of(scored("fp32", [list(range(8))]))
    part = experience.rows([6, 2])
    assert part.tokens.tolist() == TOKENS[[6, 2], :6].tolist()
    assert torch.equal(part.mask, MASK[[6, 2], :6])
    assert torch.equal(part.advantages, experience.advantages[[6, 2], :6])


def test_micro_batches_of_a_plan_stay_as_they_are_while_they_fit() -> None:
    for minibatch in chain(*plan_of(LENGTHS, max_tokens=30)):
        assert fitting(minibatch, apart(LENGTHS), max_tokens=30) == minibatch
        assert fitting(minibatch, apart(LENGTHS), max_tokens=1000) == minibatch


def test_larger_ones_are_cut_anew_of_the_same_rows() -> None:
    for minibatch in chain(*plan_of(LENGTHS, max_tokens=1000)):
        smaller = fitting(minibatch, apart(LENGTHS), max_tokens=15)
        assert sorted(chain(*smaller)) == sorted(chain(*minibatch))
        assert all(len(rows) * max(LENGTHS[row] for row in rows) <= 15 for rows in smaller)
        assert all(len(rows) == 1 for rows in fitting(minibatch, apart(LENGTHS), max_tokens=1))


def of_two_prompts(*, pads: bool) -> RowTokens:
    """Eight rows of nine tokens: of two prompts of six, in turn."""
    tokens = tiny.rows(*[9] * 8)
    tokens[2::2, :6], tokens[3::2, :6] = tokens[0, :6], tokens[1, :6]
    return RowTokens.of(tokens, tiny.spans(*[(6, 9)] * 8), pads=pads)


def test_responses_to_a_prompt_stay_together_and_count_it_once() -> None:
    plan = plan_updates(
        of_two_prompts(pads=False), epochs=2, minibatch_size=8, max_tokens=20, seed=0, iteration=0
    )
    for minibatch in chain(*plan):
        assert sorted(map(sorted, minibatch)) == [[0, 2, 4, 6], [1, 3, 5, 7]]  # 6 + 4 * 3 tokens
        assert fitting(minibatch, of_two_prompts(pads=False), max_tokens=20) == minibatch


def test_more_of_them_than_fit_are_parted() -> None:
    row_tokens = of_two_prompts(pads=False)
    for max_tokens, most in ((17, 3), (12, 2), (11, 1), (1, 1)):
        cuts = row_tokens.cut(range(8), micro_batches, max_tokens)
        assert sorted(chain(*cuts)) == [*range(8)]
        assert max(map(len, cuts)) == most
        assert all(len({row % 2 for row in rows}) == 1 for rows in cuts)
        assert all(row_tokens.fits(rows, max_tokens) for rows in cuts)
        assert fitting([[*range(8)]], row_tokens, max_tokens=max_tokens) == cuts


def test_where_rows_are_padded_each_counts_by_itself() -> None:
    row_tokens = of_two_prompts(pads=True)
    assert row_tokens.cut(range(8), micro_batches, 20) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert not row_tokens.fits([0, 2, 4], 20)


# -- scoring -----------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_the_first_epoch_sees_the_rollouts_numbers_bit_for_bit(
    precision: Precision, checkpointing: bool
) -> None:
    """So the first ratio is exactly 1 and the first approx_kl exactly 0."""
    backbone = tiny.four_roles(tiny.open_tiny(precision, checkpointing=checkpointing))
    plan = plan_of(LENGTHS)
    first_epoch = [rows for minibatch in plan[0] for rows in minibatch]
    rollout = score_rollout(
        backbone, TOKENS, MASK, FINISHED, batches=first_epoch, temperature=TEMPERATURE
    )
    assert torch.equal(rollout.log_probs, rollout.ref_log_probs)
    experience = experience_of(rollout)
    for micro in (experience.rows(rows) for rows in first_epoch):
        with backbone.using("policy"):
            log_probs, _ = backbone.log_probs(micro.tokens, micro.mask, temperature=TEMPERATURE)
        assert log_probs.requires_grad
        assert torch.equal(log_probs, micro.old_log_probs)
        with backbone.using("value"):
            scalars = backbone.scalars(micro.tokens, to_the_left(micro.mask))
        values = values_before(scalars, micro.mask)
        assert torch.equal(values, micro.old_values)


def test_other_micro_batches_differ_by_rounding_only_in_fp32() -> None:
    together, alone = scored("fp32", [list(range(8))]), scored("fp32", [[row] for row in range(8)])
    for name in ("log_probs", "ref_log_probs", "values", "scores", "entropy"):
        assert_close(getattr(together, name), getattr(alone, name), atol=5e-5, rtol=0)


def test_everything_is_zero_outside_the_responses_and_float32() -> None:
    rollout = scored("bf16", [list(range(8))])
    for name in ("log_probs", "ref_log_probs", "values", "entropy"):
        values = getattr(rollout, name)
        assert values.dtype == torch.float32
        assert not values[~MASK].any()
        assert values[MASK].all()
        assert not values.requires_grad
    assert rollout.scores.dtype == torch.float32


def test_scores_and_values_of_a_rollout_are_those_of_each_row_alone() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    rollout = scored("fp32", [[3, 1, 0, 2], [4, 7, 6, 5]])
    with torch.no_grad():
        for row, length in enumerate(LENGTHS):
            tokens, mask = TOKENS[[row], :length], MASK[[row], :length]
            assert_close(rollout.scores[[row]], score(backbone, tokens, mask), atol=5e-5, rtol=0)
            with backbone.using("value"):
                scalars = backbone.scalars(tokens)[0]
            first = int(mask.int().argmax())
            assert_close(
                rollout.values[row, first:length], scalars[first - 1 : -1], atol=5e-5, rtol=0
            )


def test_without_critic_and_reward_model_there_are_no_values_and_no_scores() -> None:
    backbone = tiny.open_tiny()
    for role in ("policy", "reference"):
        backbone.add_role(role, tiny.random_weights(backbone, seed=0), trainable=False)
    rollout = score_rollout(
        backbone, TOKENS, MASK, FINISHED, batches=[list(range(8))], temperature=TEMPERATURE
    )
    assert not rollout.scores.any()
    assert not rollout.values.any()
    assert rollout.log_probs[MASK].all()
