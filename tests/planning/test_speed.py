"""What is timed: a run's own calls on rows as long as its own, and few layers for all."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_forge.backbone import decode_step, packed_decoder
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.packing import pack
from rlhf_forge.planning import speed
from rlhf_forge.planning.demand import Item, demand_of_limits, parts_of
from rlhf_forge.planning.micro_batch import Row
from rlhf_forge.planning.sample import TOKENS, Sample
from rlhf_forge.planning.setup import Setup
from rlhf_forge.planning.shape import Shape
from rlhf_forge.planning.speed import Speed, layers_timed, measured_speed
from rlhf_forge.planning.weights import Roles
from tests.tiny import CPU, LORA, base

LAYERS = 10
SFT = Setup(
    stage="sft",
    shape=replace(Shape.of(json.loads((base() / "config.json").read_text()), "t"), layers=LAYERS),
    precision="fp32",
    rank=LORA.r,
    recomputes=False,
    cuda=False,
    packs=True,
    roles=Roles(1, 0),
    batch_size=3,
    each=1,
    minibatch_size=3,
    micro_batch_tokens=8192,
    max_length=12,
    max_new_tokens=8,
    generated=0,
    length=4,
    epochs=1,
)
REWARD = replace(SFT, stage="reward", roles=Roles(2, 1))
PPO = replace(SFT, stage="ppo", roles=Roles(2, 2), generated=3)


@pytest.fixture
def layers_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that a layer's forward takes a second of, and nothing else; two layers are timed."""
    seconds = 0.0

    def ticking(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal seconds
            seconds += 1
            return call(*arguments, **named)

        return counted

    for module in (packed_decoder, decode_step):
        layer = module._Layer
        monkeypatch.setattr(layer, "__call__", ticking(layer.__call__))
    monkeypatch.setattr(speed, "perf_counter", lambda: seconds)
    monkeypatch.setattr(speed, "WEIGHTS", 1)


def timed(setup: Setup) -> tuple[Speed, int]:
    """The speed of a setup, and tokens of one step."""
    demand = demand_of_limits(setup)
    found = measured_speed(BackboneConfig(str(base()), "fp32", LORA), base(), setup, demand)
    return found, sum(part.tokens for part in parts_of(setup, demand.steps[0]))


@pytest.mark.usefixtures("layers_computed")
@pytest.mark.parametrize(("setup", "passes"), [(SFT, 1), (REWARD, 2)])
def test_two_layers_stand_for_all_and_every_role_that_trains_is_one_pass(
    setup: Setup, passes: int
) -> None:
    found, tokens = timed(setup)
    assert found.learnt == pytest.approx(passes * LAYERS / tokens)
    assert (found.read, found.prompt, found.drawn) == (0, 0, 0)


@pytest.mark.usefixtures("layers_computed")
def test_ppo_learns_under_two_roles_reads_under_four_and_draws_by_the_decode_step() -> None:
    found, tokens = timed(PPO)
    assert found.learnt == pytest.approx(2 * LAYERS / tokens)
    assert found.read == pytest.approx(4 * LAYERS / tokens)
    assert found.drawn == LAYERS


@pytest.mark.usefixtures("layers_computed")
def test_without_a_critic_there_is_one_pass_less_to_learn_and_to_read() -> None:
    found, tokens = timed(replace(PPO, roles=Roles(1, 2)))
    assert found.learnt == pytest.approx(LAYERS / tokens)
    assert found.read == pytest.approx(3 * LAYERS / tokens)


def test_a_small_base_is_timed_whole_and_of_a_large_one_two_layers() -> None:
    large = Shape(4096, 32, 32, 8, 128, 14336, 32768, tied=False)
    assert layers_timed(SFT.shape) == LAYERS
    assert layers_timed(large) == 2
    assert layers_timed(replace(SFT.shape, layers=1)) == 2


@pytest.mark.parametrize("layers", [1, 4])
def test_a_base_that_names_the_kind_of_each_layer_is_timed(
    layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "WEIGHTS", 1)  # two layers are timed
    told = json.loads((base() / "config.json").read_text())
    kinds = {"layer_types": ["full_attention"] * layers, "num_hidden_layers": layers}
    told |= kinds | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(told))
    setup = replace(SFT, packs=False, shape=Shape.of(told, "t"))
    config = BackboneConfig(str(tmp_path), "fp32", LORA)
    assert measured_speed(config, tmp_path, setup, demand_of_limits(setup)).learnt > 0


def test_a_sample_has_the_tokens_and_targets_of_the_rows_that_stand_for_it() -> None:
    rows = [Row(9, 4), Row(5, 5)]
    sample = Sample.of(SFT, [(row,) for row in rows], CPU)
    assert sample.tokens.shape == (2, 9)
    assert sample.targets.nonzero().tolist() == [
        *([0, at] for at in range(5, 9)),
        *([1, at] for at in range(1, 5)),
    ]


def test_both_sides_of_a_pair_begin_alike_and_are_packed_as_is_counted() -> None:
    pair: Item = (Row(20, 1), Row(8, 1, prefix=12))
    sample = Sample.of(REWARD, [pair], CPU)
    assert torch.equal(*sample.tokens[:, :12])
    assert len(pack(sample.tokens, sample.targets).source) == sample.computed == 28


def test_a_sample_is_one_micro_batch_at_most_and_one_row_at_least() -> None:
    step: list[Item] = [(Row(100, 100),)] * 64
    many = replace(SFT, batch_size=64, minibatch_size=64)
    counts = [
        Sample.of(setup, step, CPU).computed
        for setup in (
            many,
            replace(many, micro_batch_tokens=250),
            replace(many, micro_batch_tokens=1),
            replace(many, minibatch_size=3),
        )
    ]
    assert counts == [TOKENS["cpu"] // 100 * 100, 200, 100, 300]
