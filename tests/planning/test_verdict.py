"""The verdict, and the one key to change."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from rlhf_forge.data.records import Pair
from rlhf_forge.data.stream import Stream
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.errors import UserError
from rlhf_forge.planning.demand import demand_of, demand_of_limits, parts_of
from rlhf_forge.planning.duration import duration_of
from rlhf_forge.planning.look import Look, _packs, require_fits
from rlhf_forge.planning.plan import Part, Plan, plan_of
from rlhf_forge.planning.setup import Setup
from rlhf_forge.planning.shape import Shape
from rlhf_forge.planning.sizes import bytes_of, gib
from rlhf_forge.planning.speed import Speed
from rlhf_forge.planning.verdict import one_change, several_changes, word_of
from rlhf_forge.planning.weights import Roles

GIB = 2**30
MISTRAL = Shape(4096, 32, 32, 8, 128, 14336, 32768, tied=False)
SFT = Setup(
    stage="sft",
    shape=MISTRAL,
    precision="nf4",
    rank=16,
    recomputes=True,
    cuda=True,
    packs=False,
    roles=Roles(1, 0),
    batch_size=16,
    each=1,
    minibatch_size=16,
    micro_batch_tokens=8192,
    max_length=1024,
    max_new_tokens=64,
    generated=0,
    length=10,
    epochs=1,
)
PPO = replace(SFT, stage="ppo", roles=Roles(2, 2), generated=64, max_length=512, max_new_tokens=256)


def planned(setup: Setup) -> Plan:
    return plan_of(setup, demand_of_limits(setup))


def some(low: int, expected: int, high: int) -> Plan:
    return Plan((Part("base", low, expected, high),), known=True, context="")


def test_it_fits_only_if_the_worst_step_does() -> None:
    plan = some(1, 2, 3)
    assert [word_of(plan, free) for free in (3, 2, 1)] == ["fits", "tight", "does not fit"]


def test_only_what_cannot_fit_at_all_is_refused() -> None:
    require_fits(1, some(2, 2, 3), 1, lambda: "")
    with pytest.raises(UserError, match=r"memory: the run needs .* are free") as caught:
        require_fits(2, some(2, 2, 3), 1, lambda: "change: --x 1")
    assert caught.value.hint == "change: --x 1"


@pytest.mark.parametrize("setup", [SFT, PPO])
def test_what_a_run_needs_at_least_is_one_row_beside_what_it_holds(setup: Setup) -> None:
    look = Look(setup, demand_of_limits(setup), Path())
    less = replace(setup, micro_batch_tokens=setup.max_length, generated=0)
    assert look.least <= Look(less, demand_of_limits(less), Path()).plan.low < look.plan.low


def test_how_long_responses_may_be_does_not_decide_what_a_run_needs_at_least() -> None:
    longer = replace(PPO, max_new_tokens=4096)
    one, other = (Look(setup, demand_of_limits(setup), Path()) for setup in (PPO, longer))
    assert one.least == other.least


def test_a_rollout_and_an_update_do_not_meet() -> None:
    for cuda in (True, False):
        setup = replace(PPO, cuda=cuda, generated=8)
        update = planned(replace(setup, generated=1)).expected
        assert planned(setup).expected == update  # the update is the larger of the two
        rollouts = [
            planned(replace(setup, generated=rows, max_new_tokens=8)).expected
            for rows in (4096, 8192)
        ]
        assert rollouts[1] > rollouts[0] > update


def pair(length: int, shared: int) -> PairExample:
    """Two answers of ``length`` tokens with their prompt, ``shared`` of which are the same."""
    one, other = ([*range(shared), *[1000 + side] * (length - shared)] for side in (0, 1))
    marks = [at >= shared for at in range(length)]
    return PairExample(one, other, marks, marks, Pair([], [], [], "f:1", {}))


def test_the_worst_step_is_that_of_most_tokens_computed_not_of_the_longest_rows() -> None:
    setup = replace(
        SFT, stage="dpo", packs=True, cuda=False, batch_size=2, minibatch_size=2, length=1
    )
    long, heavy, short = pair(1000, 950), pair(990, 10), pair(20, 10)
    examples = [short] * 4 + [long] * 2 + [heavy] * 2
    demand = demand_of(setup, examples, Stream(len(examples), batch_size=2, seed=0))
    computed = [sum(row.length for row in item) for item in demand.longest]
    assert computed == [2 * 990 - 10] * 2


@pytest.mark.parametrize("cuda", [False, True])
def test_more_rows_of_a_rollout_never_need_less(cuda: bool) -> None:
    plans = [planned(replace(PPO, cuda=cuda, generated=rows)) for rows in (8, 32, 48, 64, 256)]
    assert sorted(plan.expected for plan in plans) == [plan.expected for plan in plans]
    assert sorted(plan.high for plan in plans) == [plan.high for plan in plans]


def test_mistral_7b_in_four_bit_has_the_bytes_of_its_card() -> None:
    assert MISTRAL.linear_weights + MISTRAL.other_weights == 7_248_023_552
    base = planned(SFT).parts[0]
    assert base.name == "base"
    assert 3.8 * GIB < base.expected < 4.0 * GIB


@pytest.mark.parametrize("setup", [SFT, PPO])
@pytest.mark.parametrize("memory", [10 * GIB, 8 * GIB])
def test_the_change_that_is_named_makes_it_fit_and_is_one_key(setup: Setup, memory: int) -> None:
    assert word_of(planned(setup), memory) != "fits"
    change = one_change(setup, planned, memory)
    if change is None:
        change = several_changes(setup, planned, memory)
    else:
        assert len(change.keys) == 1
    assert change is not None
    assert word_of(planned(change.setup), memory) == "fits"


def test_the_key_is_called_as_the_stage_calls_it() -> None:
    sft = one_change(SFT, planned, 12 * GIB)
    ppo = one_change(replace(PPO, micro_batch_tokens=4096), planned, 12 * GIB)
    assert sft is not None
    assert ppo is not None
    assert list(sft.keys) == ["model.init_args.micro_batch_tokens"]
    assert list(ppo.keys) == ["model.init_args.rollout.max_rows"]


def test_nothing_is_proposed_where_nothing_fits() -> None:
    assert several_changes(PPO, planned, GIB) is None


def test_a_pair_takes_two_rows_of_the_budget() -> None:
    reward = replace(SFT, stage="reward")
    [step] = demand_of_limits(reward).steps
    assert [part.tokens for part in parts_of(reward, step)] == [8192] * 4
    assert [part.wanted for part in parts_of(reward, step)] == [8] * 4


def test_twice_the_steps_take_twice_as_long_at_the_same_rate() -> None:
    speed = Speed(learnt=3e-5, read=4e-5, prompt=1e-5, drawn=4e-3)
    found = partial(duration_of, demand=demand_of_limits(PPO), speed=speed)
    once, twice = found(PPO), found(replace(PPO, length=20))
    assert twice.hours == pytest.approx(2 * once.hours)
    assert twice.tokens_per_second == pytest.approx(once.tokens_per_second)


def test_an_sft_step_takes_what_its_tokens_take() -> None:
    found = duration_of(SFT, demand_of_limits(SFT), Speed(learnt=3e-5))
    assert found.tokens_per_second == pytest.approx(1 / 3e-5)
    assert found.hours == pytest.approx(10 * 16 * 1024 * 3e-5 / 3600)


def test_ppo_answers_in_rounds_reads_once_and_learns_once_an_epoch() -> None:
    speed = Speed(learnt=3e-5, read=4e-5, prompt=1e-5, drawn=4e-3)
    setup = replace(PPO, epochs=2, generated=6, length=1)  # 16 responses: 6, 6 and 4
    answers = 16 * 512 * 1e-5 + 3 * 256 * 4e-3
    learns = 16 * (512 + 256) * (4e-5 + 2 * 3e-5)
    found = duration_of(setup, demand_of_limits(setup), speed)
    assert found.hours * 3600 == pytest.approx(answers + learns)


@pytest.mark.parametrize(
    ("text", "size"), [("12GiB", 12 * GIB), ("1.5 GB", 1_500_000_000), ("512MiB", 2**29)]
)
def test_a_size_is_read_as_it_is_written(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["12", "", "GiB", "-1GiB", "0GiB", "12 gigs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--memory: must be a size such as 12GiB"):
        bytes_of(text)


def test_sizes_are_told_in_binary_units() -> None:
    assert gib(12 * GIB) == "12.0 GiB"
    assert gib(50 * 2**20) == "50 MiB"


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 100},
        {"head_dim": 256},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"type": "longrope"}},
        {"sliding_window": 64},
        {"model_type": "gemma"},
    ],
)
def test_a_plan_packs_no_base_that_runs_by_the_stock_decoder(changes: dict[str, object]) -> None:
    plain = {"model_type": "mistral", "head_dim": 128}
    shape = replace(MISTRAL, head=int(str(changes.get("head_dim", 128))))
    assert _packs(plain, MISTRAL, "nf4", cuda=True)
    assert not _packs(plain | changes, shape, "nf4", cuda=True)
    assert not _packs(plain, MISTRAL, "fp32", cuda=True)
