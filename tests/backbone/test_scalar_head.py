import pytest
import torch
from torch.testing import assert_close

from rlhf_forge.backbone.scalar_head import HeadWeights, ScalarHead
from tests import tiny


def test_the_scalar_is_the_raw_one_centred_and_scaled() -> None:
    head = ScalarHead(HeadWeights(torch.tensor([[1.0, 2.0]]), mean=3.0, std=2.0), tiny.CPU)
    assert head(torch.tensor([[[5.0, 1.0], [0.0, 0.0]]])).tolist() == [[2.0, -1.5]]


def test_scalars_are_float32_on_bf16_states() -> None:
    head = ScalarHead(HeadWeights(torch.randn(1, 8)), tiny.CPU)
    states = torch.randn(3, 8).bfloat16()
    assert head(states).dtype == torch.float32
    assert_close(head(states), head(states.float()), atol=0, rtol=0)


def test_a_copy_carries_weight_and_scale_and_is_independent() -> None:
    weights = HeadWeights(torch.randn(1, 8), mean=-0.7, std=0.1)
    head = ScalarHead(weights, tiny.CPU)
    copy = ScalarHead(head.weights(), tiny.CPU)
    states = torch.randn(4, 8)
    assert torch.equal(copy(states), head(states))
    before = weights.weight.clone()
    copy.weight.data.zero_()
    assert head.weight.any()
    assert torch.equal(weights.weight, before)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_a_std_that_cannot_scale_is_refused(std: float) -> None:
    with pytest.raises(ValueError, match="std must be positive"):
        ScalarHead(HeadWeights(torch.zeros(1, 8), std=std), tiny.CPU)


def test_setting_the_scale_of_a_role_rescales_its_raw_scalars_and_keeps_it_trainable() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    tokens = tiny.rows(5, 8)
    for role, trainable in (("value", True), ("reward", False)):
        with backbone.using(role):
            raw = backbone.scalars(tokens) * 2.0 + 0.3  # as `random_weights` scales them
            backbone.set_scale(role, mean=1.5, std=0.5)
            assert_close(backbone.scalars(tokens), (raw - 1.5) / 0.5, atol=1e-5, rtol=1e-5)
        assert backbone.heads[role].weight.requires_grad == trainable


def test_the_critic_speaks_the_units_of_the_reward_model_it_copies() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    backbone.set_scale("reward", mean=4.0, std=0.25)
    backbone.add_role("value", backbone.weights_of("reward"), trainable=True)
    tokens = tiny.rows(5, 8)
    with backbone.using("value"):
        values = backbone.scalars(tokens)
    with backbone.using("reward"):
        assert torch.equal(backbone.scalars(tokens), values)


def test_a_fresh_head_is_a_function_of_the_seed() -> None:
    backbone = tiny.open_tiny()
    heads = [backbone.fresh_head(backbone.fresh_weights(seed=0), seed=s).head for s in (1, 1, 2)]
    one, same, other = (head.weight for head in heads if head is not None)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
