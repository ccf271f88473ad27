"""Gradients of several roles on one base: the traps that raise nothing and train nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.hooks import RemovableHandle
from transformers import AutoModelForCausalLM

from rlhf_forge.backbone.adapter_files import write_adapter
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.bitsandbytes_guard import import_bitsandbytes, import_peft
from rlhf_forge.backbone.config import Precision
from rlhf_forge.backbone.packed_attention import packed_attention
from tests import tiny

TOKENS = tiny.rows(9, 14, 6, 11)
TARGETS = tiny.spans((4, 9), (5, 14), (1, 6), (10, 11))


def losses(backbone: Backbone) -> tuple[Tensor, Tensor]:
    with backbone.using("policy"):
        policy, _ = backbone.log_probs(TOKENS, TARGETS, temperature=0.7)
    with backbone.using("value"):
        value = backbone.scalars(TOKENS)
    return policy.sum(), value.square().sum()


def gradients(backbone: Backbone) -> dict[str, Tensor]:
    named = backbone.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def frozen_bytes(backbone: Backbone) -> dict[str, Tensor]:
    named = backbone.named_parameters()
    return {n: p.detach().view(torch.uint8).clone() for n, p in named if not p.requires_grad}


def test_a_joint_backward_reaches_every_parameter_of_both_roles() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    policy, value = losses(backbone)
    with backbone.using("reference"):
        (policy + value).backward()  # type: ignore[no-untyped-call]
    joint = gradients(backbone)
    trainable = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert set(joint) == trainable
    assert all(gradient.any() for gradient in joint.values())
    backbone.zero_grad(set_to_none=True)
    for loss in losses(backbone):
        loss.backward()  # type: ignore[no-untyped-call]
    assert_close(gradients(backbone), joint, atol=0, rtol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_checkpointing_gives_the_gradients_of_no_checkpointing(
    precision: Precision, training: bool
) -> None:
    plain = tiny.four_roles(tiny.open_tiny(precision))
    recomputing = tiny.four_roles(tiny.open_tiny(precision, checkpointing=True))
    for backbone in (plain, recomputing):
        backbone.train(training)
        sum(losses(backbone)).backward()  # type: ignore[union-attr] # not of no tensors
    assert_close(gradients(recomputing), gradients(plain), atol=0, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_checkpointing_recomputes_every_packed_layer_in_the_backward(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(checkpointing=True)).train(training)
    calls: list[int] = []

    def counted(qkv: Tensor, **others: Any) -> Tensor:
        calls.append(len(qkv))
        return packed_attention(qkv, **others)

    monkeypatch.setattr("rlhf_forge.backbone.packed_decoder.packed_attention", counted)
    policy, _ = losses(backbone)
    layers = len(backbone.model.model.layers)
    assert len(calls) == 2 * layers
    policy.backward()  # type: ignore[no-untyped-call]
    assert len(calls) == 3 * layers


@pytest.mark.parametrize("training", [True, False])
def test_checkpointing_recomputes_every_stock_layer_in_the_backward(training: bool) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(checkpointing=True)).train(training)
    backbone.packed = None
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handles: list[RemovableHandle] = [
        layer.self_attn.register_forward_hook(count) for layer in backbone.model.model.layers
    ]
    policy, _ = losses(backbone)
    assert calls == 2 * len(handles)
    policy.backward()  # type: ignore[no-untyped-call]
    assert calls == 3 * len(handles)


def test_checkpointing_restores_a_mixed_batch_in_the_backward() -> None:
    results = []
    for checkpointing in (False, True):
        backbone = tiny.four_roles(tiny.open_tiny(checkpointing=checkpointing))
        with backbone.using(["value", "policy", "policy", "reference"]):
            loss = backbone.hidden(TOKENS).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        results.append(gradients(backbone))
    assert_close(results[1], results[0], atol=0, rtol=0)


@pytest.fixture
def repacking_cpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A CPU on which bitsandbytes' own layer repacks its weight in eval mode; what it repacked."""
    bitsandbytes = import_bitsandbytes()
    repacked: list[str] = []

    def spoil(weight: Tensor, quant_state: object) -> tuple[Tensor, object]:
        repacked.append("a weight")
        return weight.flip(0), quant_state

    monkeypatch.setattr(bitsandbytes.nn.modules, "_convert_weight_packed_for_cpu", spoil)
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    return repacked


def test_bitsandbytes_own_layer_does_repack_on_such_a_cpu(repacking_cpu: list[str]) -> None:
    backbone = tiny.open_tiny("nf4")
    layer = backbone.model.model.layers[0].mlp.up_proj.frozen
    before = layer.weight.data.clone()
    layer.eval()(torch.ones(1, tiny.WIDTH, dtype=torch.bfloat16))
    assert repacking_cpu
    assert not torch.equal(layer.weight.data, before)


def test_an_eval_forward_leaves_4_bit_weights_and_later_training_as_they_were(
    repacking_cpu: list[str],
) -> None:
    untouched = tiny.four_roles(tiny.open_tiny("nf4")).train()
    backbone = tiny.four_roles(tiny.open_tiny("nf4"))
    weights = frozen_bytes(backbone)
    backbone.eval()
    with torch.no_grad():
        seen = losses(backbone)
    backbone.train()
    trained = losses(backbone)
    assert_close(trained, seen, atol=0, rtol=0)
    sum(trained).backward()  # type: ignore[union-attr] # not of no tensors
    sum(losses(untouched)).backward()  # type: ignore[union-attr] # as above
    assert_close(gradients(backbone), gradients(untouched), atol=0, rtol=0)
    assert_close(frozen_bytes(backbone), weights, atol=0, rtol=0)
    assert not repacking_cpu


@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_a_training_step_and_an_export_leave_the_base_bit_for_bit(precision: Precision) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(precision))
    before = frozen_bytes(backbone)
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    masters = [p.detach().clone() for p in trainable]
    sum(losses(backbone)).backward()  # type: ignore[union-attr] # not of no tensors
    optimizer.step()
    backbone.weights_of("policy")
    assert all(not torch.equal(p, old) for p, old in zip(trainable, masters, strict=True))
    assert_close(frozen_bytes(backbone), before, atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_logits_and_gradients_are_those_of_stock_peft(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    folder = tmp_path_factory.mktemp("adapter")
    write_adapter(backbone.weights_of("policy"), folder, base=str(tiny.base()))
    stock_base = AutoModelForCausalLM.from_pretrained(tiny.base(), attn_implementation="eager")
    stock = import_peft().PeftModel.from_pretrained(stock_base, folder, is_trainable=True).eval()
    with backbone.using("policy"):
        logits = backbone.model.lm_head(backbone.hidden(TOKENS))
    expected = stock(TOKENS).logits
    real = tiny.spans((0, 9), (0, 14), (0, 6), (0, 11))
    assert_close(logits[real], expected[real], atol=1e-5 * expected.abs().max().item(), rtol=0)
    logits[real].logsumexp(-1).sum().backward()
    expected[real].logsumexp(-1).sum().backward()
    theirs = {
        name.removeprefix("base_model.model.").replace(".default.weight", ".policy"): p.grad
        for name, p in stock.named_parameters()
        if p.grad is not None
    }
    ours = {name.removeprefix("model."): g for name, g in gradients(backbone).items()}
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-5 * gradient.norm()
