import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, DynamicCache

from rlhf_forge.backbone.adapted_linear import AdaptedLinear
from rlhf_forge.backbone.adapter_files import AdapterWeights
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import LoraSpec, Precision
from rlhf_forge.errors import UserError
from tests import tiny

TOKENS = tiny.rows(9, 14, 6, 11)
TARGETS = tiny.spans((4, 9), (5, 14), (1, 6), (10, 11))
TEMPERATURE = 0.7


def log_probs(backbone: Backbone, role: str, tokens: Tensor = TOKENS) -> Tensor:
    with backbone.using(role):
        values, _ = backbone.log_probs(tokens, TARGETS, temperature=TEMPERATURE)
    return values


def stock_logits(folder: str) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        logits: Tensor = model(TOKENS).logits
    return logits


@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_a_policy_copied_from_the_reference_gives_its_log_probs_bit_for_bit(
    precision: Precision,
) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(precision))
    assert torch.equal(log_probs(backbone, "policy"), log_probs(backbone, "reference"))
    with backbone.using("value"):
        values = backbone.scalars(TOKENS)
    with backbone.using("reward"):
        assert torch.equal(values, backbone.scalars(TOKENS))


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_an_adapter_that_computed_in_float32_would_not_be_equal_to_its_copy(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So all adapters compute in the base's dtype, though those that train are float32."""
    backbone = tiny.four_roles(tiny.open_tiny(precision))
    update = AdaptedLinear._update

    def wide(self: AdaptedLinear, x: Tensor, role: str) -> Tensor:
        return update(self, x.float() if role == "policy" else x, role).to(x.dtype)

    monkeypatch.setattr(AdaptedLinear, "_update", wide)
    backbone.packed = None
    gap = (log_probs(backbone, "policy") - log_probs(backbone, "reference")).abs().max()
    assert gap > 0.01


def test_roles_differ() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    assert not torch.allclose(log_probs(backbone, "policy"), log_probs(backbone, "reward"))


def test_a_mixed_batch_gives_each_row_what_its_role_alone_gives() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    backbone.add_bare_role("base")
    roles = ["reward", "base", "policy", "reward"]
    with backbone.using(roles), torch.no_grad():
        mixed = backbone.hidden(TOKENS)
    for row, role in enumerate(roles):
        with backbone.using(role), torch.no_grad():
            assert_close(mixed[row], backbone.hidden(TOKENS)[row], atol=1e-5, rtol=0)


def test_a_mixed_batch_gives_each_role_the_gradient_of_its_rows() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    with backbone.using(["policy", "value", "value", "policy"]):
        backbone.hidden(TOKENS).square().sum().backward()  # type: ignore[no-untyped-call]
    mixed = [p.grad for p in backbone.parameters()]
    backbone.zero_grad(set_to_none=True)
    for role, rows in (("policy", [0, 3]), ("value", [1, 2])):
        with backbone.using(role):
            backbone.hidden(TOKENS[rows]).square().sum().backward()  # type: ignore[no-untyped-call]
    for alone, together in zip(backbone.parameters(), mixed, strict=True):
        assert_close(together, alone.grad, atol=1e-4, rtol=1e-4)


def test_a_row_without_a_role_is_refused() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    with (
        backbone.using(["policy", "reference"]),
        pytest.raises(ValueError, match="2 roles for 4 rows"),
    ):
        backbone.hidden(TOKENS)


def test_using_nests_and_restores_the_role_before_also_after_an_exception() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    expected = log_probs(backbone, "policy")
    with backbone.using("policy"):
        with pytest.raises(ZeroDivisionError), backbone.using("reward"):
            _ = 1 / 0
        log_probs(backbone, "reference")
        again, _ = backbone.log_probs(TOKENS, TARGETS, temperature=TEMPERATURE)
    assert torch.equal(again, expected)
    with pytest.raises(RuntimeError, match="no role in use"):
        backbone.hidden(TOKENS)


def test_an_unknown_role_is_named_with_those_that_exist() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    with pytest.raises(KeyError, match=r"no role 'critic' here; roles: .*'policy'"):
        backbone.using("critic").__enter__()


@pytest.mark.parametrize("tied", [False, True])
def test_the_bare_role_is_the_stock_model(tied: bool) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(tied=tied))
    backbone.add_bare_role("base")
    expected = stock_logits(str(tiny.base(tied=tied)))
    with backbone.using("base"), torch.no_grad():
        logits = backbone.model.lm_head(backbone.hidden(TOKENS))
    for row, length in enumerate([9, 14, 6, 11]):
        assert_close(logits[row, :length], expected[row, :length], atol=2e-5, rtol=0)


def test_a_fresh_adapter_leaves_the_base_as_it_is() -> None:
    backbone = tiny.open_tiny()
    backbone.add_bare_role("base")
    backbone.add_role("policy", backbone.fresh_weights(seed=3), trainable=True)
    assert torch.equal(log_probs(backbone, "policy"), log_probs(backbone, "base"))


def test_fresh_weights_are_a_function_of_the_seed() -> None:
    backbone = tiny.open_tiny()
    one, same, other = (backbone.fresh_weights(seed=seed) for seed in (1, 1, 2))
    name = next(iter(one.pairs))
    assert torch.equal(one.pairs[name][0], same.pairs[name][0])
    assert not torch.equal(one.pairs[name][0], other.pairs[name][0])


def test_log_probs_and_entropy_are_those_of_the_stock_logits() -> None:
    backbone = tiny.open_tiny()
    backbone.add_bare_role("base")
    with backbone.using("base"):
        values, entropy = backbone.log_probs(TOKENS, TARGETS, temperature=TEMPERATURE)
    every = F.log_softmax(stock_logits(str(tiny.base())) / TEMPERATURE, dim=-1)[:, :-1]
    expected = every.gather(-1, TOKENS[:, 1:, None]).squeeze(-1)
    expected_entropy = -(every.exp() * every).sum(-1)
    assert_close(values[:, 1:], torch.where(TARGETS[:, 1:], expected, 0), atol=5e-5, rtol=0)
    assert_close(
        entropy[:, 1:], torch.where(TARGETS[:, 1:], expected_entropy, 0), atol=5e-5, rtol=0
    )
    assert not values[~TARGETS].any()
    assert not entropy[~TARGETS].any()


def test_log_probs_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    whole = log_probs(backbone, "policy")
    monkeypatch.setattr("rlhf_forge.backbone.backbone.LOGITS_PER_CHUNK", 3 * tiny.VOCAB)
    assert_close(log_probs(backbone, "policy"), whole, atol=1e-5, rtol=0)


def test_no_targets_give_zeros_and_a_first_token_is_refused() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    with backbone.using("policy"):
        values, entropy = backbone.log_probs(
            TOKENS, torch.zeros_like(TARGETS), temperature=TEMPERATURE
        )
        assert not values.any()
        assert not entropy.any()
        with pytest.raises(ValueError, match="first token"):
            backbone.log_probs(TOKENS, torch.ones_like(TARGETS), temperature=TEMPERATURE)


@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_what_stands_in_the_padding_changes_nothing(precision: Precision) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(precision))
    real = tiny.spans((0, 9), (0, 14), (0, 6), (0, 11))
    other = torch.where(real, TOKENS, tiny.rows(14, 14, 14, 14, seed=5))
    assert torch.equal(log_probs(backbone, "policy", other), log_probs(backbone, "policy"))


def test_more_padding_changes_log_probs_by_rounding_only() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    with backbone.using("policy"):
        wide, _ = backbone.log_probs(
            F.pad(TOKENS, (0, 7)), F.pad(TARGETS, (0, 7)), temperature=TEMPERATURE
        )
    assert_close(wide[:, :14], log_probs(backbone, "policy"), atol=2e-5, rtol=0)


def test_cached_decoding_gives_the_log_probs_of_the_training_forward_in_fp32() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    lengths = [9, 14, 6, 11]
    cache = DynamicCache(config=backbone.model.config)
    width = max(lengths)
    steps = torch.arange(width)
    offsets = torch.tensor([width - length for length in lengths])
    source = (steps - offsets[:, None]).clamp_min(0)  # left-padded: column c holds token c - offset
    left = TOKENS.gather(1, source)
    mask = (steps >= offsets[:, None]).long()
    expected = log_probs(backbone, "policy")
    prompt = 3
    with backbone.using("policy"), torch.no_grad():
        for seen in range(prompt, width):
            first = 0 if seen == prompt else seen - 1
            logits = backbone.next_logits(
                left[:, first:seen], mask[:, :seen], source[:, first:seen], cache
            )
            every = F.log_softmax(logits / TEMPERATURE, dim=-1)
            for row in range(len(lengths)):
                place = int(source[row, seen])
                if seen > prompt + offsets[row] and TARGETS[row, place]:
                    gap = every[row, left[row, seen]] - expected[row, place]
                    assert gap.abs() <= 1e-4


def test_scalars_need_exactly_one_role_with_a_head() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    for roles in ("policy", ["value", "reward", "value", "reward"]):
        with backbone.using(roles), pytest.raises(KeyError, match="one role with a head"):
            backbone.scalars(TOKENS)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_nothing_but_the_trainable_roles_requires_gradients(
    precision: Precision, tied: bool
) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(precision, tied=tied))
    trainable = {id(p) for p in backbone.parameters() if p.requires_grad}
    expected = {id(p) for role in ("policy", "value") for p in backbone.parameters_of(role)}
    assert trainable == expected
    assert all(p.dtype == torch.float32 for p in backbone.parameters() if p.requires_grad)


def test_weights_of_a_role_come_back_as_they_were_added() -> None:
    backbone = tiny.open_tiny("bf16")
    weights = tiny.random_weights(backbone, seed=4, head=True)
    backbone.add_role("reward", weights, trainable=False)
    assert_same(backbone.weights_of("reward"), weights)


def test_a_role_is_a_copy_of_the_weights_it_was_given() -> None:
    backbone = tiny.open_tiny()
    weights = tiny.random_weights(backbone, seed=4, head=True)
    backbone.add_role("value", weights, trainable=True)
    copied = backbone.weights_of("value")
    for parameter in backbone.parameters_of("value"):
        parameter.data.zero_()
    assert_same(copied, weights)
    assert not backbone.weights_of("value").pairs[next(iter(weights.pairs))][0].any()


def assert_same(one: AdapterWeights, other: AdapterWeights) -> None:
    assert one.lora == other.lora
    assert_close(one.pairs, other.pairs, atol=0, rtol=0)
    assert (one.head is None) == (other.head is None)
    if one.head is not None and other.head is not None:
        assert torch.equal(one.head.weight, other.head.weight)
        assert_close((one.head.mean, one.head.std), (other.head.mean, other.head.std))


def test_roles_may_differ_in_rank_and_scale() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    wide = AdapterWeights(
        LoraSpec(r=8, alpha=4),
        {
            name: (torch.cat([down, down]), torch.cat([up, up], dim=1))
            for name, (down, up) in backbone.weights_of("policy").pairs.items()
        },
    )
    backbone.add_role("wide", wide, trainable=False)  # twice the update at a quarter of the scale
    halved = AdapterWeights(LoraSpec(r=4, alpha=4), backbone.weights_of("policy").pairs)
    backbone.add_role("halved", halved, trainable=False)
    assert_close(log_probs(backbone, "wide"), log_probs(backbone, "halved"), atol=2e-5, rtol=0)
    assert backbone.weights_of("wide").lora == LoraSpec(r=8, alpha=4)


def test_a_role_given_anew_without_a_head_has_none() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    backbone.add_role("reward", tiny.random_weights(backbone, seed=9), trainable=False)
    with backbone.using("reward"), pytest.raises(KeyError, match="one role with a head"):
        backbone.scalars(TOKENS)


def test_an_adapter_of_another_base_is_refused_naming_a_layer() -> None:
    backbone = tiny.open_tiny()
    weights = backbone.fresh_weights(seed=0)
    pairs = dict(weights.pairs)
    pairs["model.layers.0.mlp.up_proj"] = (torch.zeros(4, 64), torch.zeros(256, 4))
    with pytest.raises(UserError, match=r"does not fit this base: see layer .*0\.mlp\.up_proj"):
        backbone.add_role("policy", AdapterWeights(weights.lora, pairs), trainable=True)
    del pairs["model.layers.0.mlp.up_proj"]
    with pytest.raises(UserError, match=r"0\.mlp\.up_proj"):
        backbone.add_role("policy", AdapterWeights(weights.lora, pairs), trainable=True)


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_cached_decoding_is_near_the_training_forward_in_bf16(precision: Precision) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(precision))
    tokens = TOKENS[1:2]
    positions = torch.arange(14).unsqueeze(0)
    cache = DynamicCache(config=backbone.model.config)
    with backbone.using("policy"), torch.no_grad():
        backbone.next_logits(tokens[:, :5], torch.ones_like(tokens[:, :5]), positions[:, :5], cache)
        mask = torch.ones(1, 6, dtype=torch.long)
        logits = backbone.next_logits(tokens[:, 5:6], mask, positions[:, 5:6], cache)
        expected = log_probs(backbone, "policy")[1, 6]
    assert logits.dtype == torch.float32
    assert (logits[0].div(TEMPERATURE).log_softmax(-1)[tokens[0, 6]] - expected).abs() < 0.2


def test_new_weights_are_the_same_whatever_device_is_the_default() -> None:
    backbone = tiny.open_tiny()
    expected = backbone.fresh_head(backbone.fresh_weights(seed=3), seed=4)
    with torch.device("meta"):  # as a Trainer makes a GPU the default
        found = backbone.fresh_head(backbone.fresh_weights(seed=3), seed=4)
    assert expected.head is not None
    assert found.head is not None
    assert torch.equal(found.head.weight, expected.head.weight)
    for name, pair in expected.pairs.items():
        assert all(torch.equal(a, b) for a, b in zip(found.pairs[name], pair, strict=True))
