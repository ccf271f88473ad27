"""The packed forward against the stock decoder, which is its reference."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlhf_forge.backbone import packed_decoder
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import Precision
from rlhf_forge.backbone.loading import freeze
from rlhf_forge.backbone.packing import BLOCK_COST, pack
from tests import exact, plain_kernel, tiny

TOKENS = tiny.rows(9, 14, 6, 11, 40)
WANTED = tiny.spans((4, 9), (5, 14), (1, 6), (10, 11), (20, 40))


def states(backbone: Backbone, role: str = "policy") -> Tensor:
    with backbone.using(role):
        return backbone.states(TOKENS, WANTED)


def stock(backbone: Backbone) -> Backbone:
    """The same backbone without its packed forward."""
    backbone.packed = None
    return backbone


def gradients(backbone: Backbone) -> Tensor:
    """Of a loss that weighs every number of the states differently; flat."""
    found = states(backbone)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()  # type: ignore[no-untyped-call]
    trained = backbone.parameters_of("policy")
    grads = [p.grad for p in trained if p.grad is not None]
    assert len(grads) == len(trained)
    return torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("precision", "error"), [("fp32", 5e-6), ("bf16", 0.03), ("nf4", 0.03)])
def test_states_and_gradients_are_those_of_the_stock_decoder(
    precision: Precision, error: float, tied: bool
) -> None:
    packed = tiny.four_roles(tiny.open_tiny(precision, tied=tied))
    plain = stock(tiny.four_roles(tiny.open_tiny(precision, tied=tied)))
    assert packed.packed is not None
    ours, theirs = states(packed), states(plain)
    assert (ours - theirs).float().norm() <= error * theirs.float().norm()
    ours, theirs = gradients(packed), gradients(plain)
    assert (ours - theirs).norm() <= 2 * error * theirs.norm()


def test_in_float64_they_are_equal_to_twelve_digits() -> None:
    packed = exact.in_float64(tiny.four_roles(tiny.open_tiny()))
    plain = stock(exact.in_float64(tiny.four_roles(tiny.open_tiny())))
    # transformers rounds the rotation's angles to float32 on either side.
    assert_close(states(packed), states(plain), rtol=0, atol=1e-12)
    ours, theirs = gradients(packed), gradients(plain)
    assert (ours - theirs).norm() <= 1e-12 * theirs.norm()


def test_a_bare_role_is_packed_too() -> None:
    backbone = tiny.open_tiny()
    backbone.add_bare_role("base")
    packed = states(backbone, "base")
    assert_close(packed, states(stock(backbone), "base"), atol=2e-5, rtol=0)


def test_a_row_alone_has_the_states_it_has_among_others() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    together = torch.split(states(backbone), WANTED.sum(1).tolist())
    for row, among_others in enumerate(together):
        with backbone.using("policy"):
            alone = backbone.states(TOKENS[row : row + 1], WANTED[row : row + 1])
        assert_close(alone, among_others, atol=1e-5, rtol=0)


def test_no_wanted_tokens_give_no_states() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    with backbone.using("policy"):
        nothing = backbone.states(TOKENS, torch.zeros_like(WANTED))
    assert nothing.shape == (0, tiny.WIDTH)
    nothing.sum().backward()  # type: ignore[no-untyped-call]


def test_several_roles_at_once_go_the_stock_way() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    roles = ["policy", "reward", "policy", "value", "policy"]
    with backbone.using(roles):
        mixed, whole = backbone.states(TOKENS, WANTED), backbone.hidden(TOKENS)
    assert torch.equal(mixed, whole[WANTED])


def test_weights_that_become_one_matrix_are_held_once_and_keep_their_numbers() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    attention = backbone.model.model.layers[0].self_attn
    before = attention.k_proj.frozen.weight.clone()
    states(backbone)
    weights = [getattr(attention, f"{name}_proj").frozen.weight for name in "qkv"]
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
    assert torch.equal(weights[1], before)


def test_a_llama_is_packed() -> None:
    torch.manual_seed(0)
    shape = tiny.base_config().to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    heads = ("num_attention_heads", "num_key_value_heads")
    model = freeze(LlamaForCausalLM(LlamaConfig(**{name: shape[name] for name in names + heads})))
    backbone = tiny.four_roles(Backbone(model, tiny.LORA))
    assert backbone.packed is not None
    assert_close(states(backbone), states(stock(backbone)), atol=2e-5, rtol=0)


def test_what_is_not_of_mistrals_form_goes_the_stock_way() -> None:
    shape: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "vocab_size": 32,
        "intermediate_size": 64,
    }
    with_biases = Qwen2ForCausalLM(
        Qwen2Config(**shape, num_attention_heads=2, num_key_value_heads=2)
    )
    windowed = tiny.base_config()
    windowed.sliding_window = 5
    stretched = tiny.base_config()
    stretched.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    for model in (with_biases, MistralForCausalLM(windowed), MistralForCausalLM(stretched)):
        assert Backbone(freeze(model), tiny.LORA).packed is None


def test_a_cpu_without_bf16_units_goes_the_stock_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_forge.backbone.packed_decoder.has_bf16_units", lambda _: False)
    assert tiny.open_tiny("bf16").packed is None
    assert tiny.open_tiny("fp32").packed is not None


# -- prefixes that rows share ---------------------------------------------------------------------

# For some rows: the row whose tokens they take over, and how many.
ALIKE: dict[str, dict[int, tuple[int, int]]] = {
    "no rows": {},
    "one token": {1: (0, 1), 2: (0, 1), 3: (0, 1), 4: (0, 1)},
    "a pair": {1: (0, 8)},
    "two groups": {1: (4, 12), 3: (4, 11), 2: (0, 5)},
    "longer and longer": {0: (4, 5), 2: (4, 6), 3: (4, 9), 1: (4, 13)},
    "one row inside another": {2: (1, 6)},
    "equal rows": {0: (4, 9), 1: (4, 14), 2: (4, 6), 3: (4, 11)},
}


def alike(name: str) -> Tensor:
    tokens = TOKENS.clone()
    for row, (other, count) in ALIKE[name].items():
        tokens[row, :count] = tokens[other, :count]
    return tokens


def results(backbone: Backbone, tokens: Tensor, wanted: Tensor = WANTED) -> tuple[Tensor, Tensor]:
    """States, and the gradients of both trained roles as in `gradients`."""
    found = []
    for role in ("policy", "value"):
        with backbone.using(role):
            found.append(backbone.states(tokens, wanted))
        weights = torch.randn(found[-1].shape, generator=torch.Generator().manual_seed(1))
        (found[-1] * weights).sum().backward()  # type: ignore[no-untyped-call]
    grads = [p.grad.flatten() for p in backbone.parameters() if p.grad is not None]
    return torch.cat(found).detach(), torch.cat(grads)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ALIKE)
def test_rows_that_share_a_prefix_have_the_states_and_gradients_they_have_apart(
    name: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tiny.open_tiny(checkpointing=checkpointing)
    shared = exact.in_float64(tiny.four_roles(opened))
    apart = exact.in_float64(tiny.four_roles(tiny.open_tiny()))
    monkeypatch.setattr("rlhf_forge.backbone.prefixes.PREFIX_COST", sys.maxsize)
    expected = results(apart, alike(name))
    monkeypatch.setattr("rlhf_forge.backbone.prefixes.PREFIX_COST", 0)
    assert (pack(alike(name), WANTED).shared > 0) == (name != "no rows")
    for ours, theirs in zip(results(shared, alike(name)), expected, strict=True):
        assert (ours - theirs).norm() <= 1e-13 * theirs.norm()


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("bf16", 0.05), ("nf4", 0.05)])
def test_they_are_close_to_those_of_the_stock_decoder_in_every_precision(
    precision: Precision, error: float
) -> None:
    packed = tiny.four_roles(tiny.open_tiny(precision))
    plain = stock(tiny.four_roles(tiny.open_tiny(precision)))
    tokens = alike("two groups")
    assert pack(tokens, WANTED).shared == 12 + 11 + 5
    for ours, theirs in zip(results(packed, tokens), results(plain, tokens), strict=True):
        assert (ours - theirs).float().norm() <= error * theirs.float().norm()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("block_cost", [0, 16])
@pytest.mark.parametrize("name", ALIKE)
def test_over_rows_as_on_a_gpu_they_are_those_over_blocks(
    name: str, block_cost: int, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tiny.open_tiny(checkpointing=checkpointing)
    over_rows = exact.in_float64(tiny.four_roles(opened))
    over_blocks = exact.in_float64(tiny.four_roles(tiny.open_tiny()))
    expected = results(over_blocks, alike(name))
    plain_kernel.put_in(monkeypatch)
    monkeypatch.setitem(BLOCK_COST, "cpu", block_cost)
    assert over_rows.packed is not None
    over_rows.packed.attention = packed_decoder.over_rows
    for ours, theirs in zip(results(over_rows, alike(name)), expected, strict=True):
        assert (ours - theirs).norm() <= 1e-13 * theirs.norm()


def test_where_no_rows_begin_alike_no_bit_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    plain = states(backbone)
    monkeypatch.setattr("rlhf_forge.backbone.prefixes.PREFIX_COST", sys.maxsize)
    assert torch.equal(states(backbone), plain)


def test_states_wanted_inside_a_shared_prefix_are_those_of_every_row() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    tokens, wanted = tiny.rows(12, 12, seed=3), tiny.spans((7, 12), (5, 12))
    tokens[1, :9] = tokens[0, :9]
    with backbone.using("policy"):
        first, second = torch.split(backbone.states(tokens, wanted), [5, 7])
    assert torch.equal(first[:2], second[2:4])
    assert not torch.equal(first[2:], second[4:])
