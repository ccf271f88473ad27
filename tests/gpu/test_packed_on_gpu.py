"""What the fused kernel computes, and the packed decoder with it, on a GPU."""

import pytest
import torch
from torch import Tensor

from rlhf_forge.backbone.adapted_group import AdaptedGroup
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, Precision
from rlhf_forge.backbone.flash_attention import Rows, flash_attention
from rlhf_forge.backbone.frozen_linear import dense_weight
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.backbone.packed_attention import Heads, packed_attention
from rlhf_forge.backbone.packing import Block, pack
from tests import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
GPU = torch.device("cuda", 0)
HEADS = Heads(queries=8, keys=2, width=64, scaling=0.125)
# Whole rows; rows that go on from them; and one of a single token.
BLOCKS = (
    Block(0, 2, 50, 50),
    Block(100, 1, 30, 30),
    Block(130, 1, 7, 57, (slice(50, 100),)),
    Block(137, 1, 5, 25, (slice(50, 70),)),
    Block(142, 1, 1, 31, (slice(100, 130),)),
)
TOKENS = 143


def opened(precision: Precision, *, checkpointing: bool = False) -> Backbone:
    model = load_base(BackboneConfig(str(tiny.base()), precision, tiny.LORA), GPU)
    return tiny.four_roles(Backbone(model, tiny.LORA, gradient_checkpointing=checkpointing))


def some_rows() -> tuple[Tensor, Tensor]:
    """Of many lengths; two pairs begin alike."""
    tokens, wanted = tiny.rows(90, 70, 40, 88), tiny.spans((30, 90), (30, 70), (1, 40), (60, 88))
    tokens[1, :30], tokens[3, :35] = tokens[0, :30], tokens[2, :35]
    return tokens.to(GPU), wanted.to(GPU)


def results(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the policy and the gradients of a loss that weighs them differently."""
    tokens, wanted = some_rows()
    backbone.zero_grad(set_to_none=True)
    with backbone.using("policy"):
        log_probs, _ = backbone.log_probs(tokens, wanted, temperature=1.0)
    weights = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(1))
    (log_probs * weights.to(GPU)).sum().backward()  # type: ignore[no-untyped-call]
    grads = [p.grad for p in backbone.parameters_of("policy") if p.grad is not None]
    return log_probs.detach(), torch.cat([grad.flatten() for grad in grads])


def attention_case() -> tuple[Tensor, Tensor, Tensor]:
    angles = torch.arange(57)[:, None] * torch.rand(32)
    return torch.randn(TOKENS, 12 * 64).bfloat16(), angles.cos().bfloat16(), angles.sin().bfloat16()


def flash(qkv: Tensor, cos: Tensor, sin: Tensor, rows: Rows) -> Tensor:
    places = rows.positions.cpu()
    return flash_attention(qkv, cos[places].to(GPU), sin[places].to(GPU), rows, HEADS)


def test_the_kernel_is_attention_over_each_row_and_its_prefix() -> None:
    qkv, cos, sin = attention_case()
    weights = torch.randn(TOKENS, HEADS.queries * HEADS.width)
    exact = qkv.double().requires_grad_()
    theirs = packed_attention(exact, cos.double(), sin.double(), BLOCKS, HEADS)
    (theirs * weights).sum().backward()  # type: ignore[no-untyped-call]
    rounded = qkv.to(GPU).requires_grad_()
    ours = flash(rounded, cos, sin, Rows.of(BLOCKS, GPU))
    (ours * weights.to(GPU)).sum().backward()  # type: ignore[no-untyped-call]
    assert rounded.grad is not None
    assert exact.grad is not None
    for found, expected in ((ours, theirs), (rounded.grad, exact.grad)):
        assert (found.cpu().double() - expected).norm() <= 0.01 * expected.norm()


def test_rows_of_a_single_token_see_themselves() -> None:
    qkv, cos, sin = attention_case()
    one = qkv[:3].to(GPU).requires_grad_()
    out = flash(one, cos, sin, Rows.of((Block(0, 3, 1, 1),), GPU))
    value = one.detach()[:, 10 * 64 :].view(3, 2, 1, 64).expand(3, 2, 4, 64)
    assert torch.equal(out.view(3, 2, 4, 64), value)
    out.sum().backward()  # type: ignore[no-untyped-call]


def test_a_row_has_the_bits_alone_that_it_has_among_others() -> None:
    qkv, cos, sin = attention_case()
    among = flash(qkv.to(GPU), cos, sin, Rows.of(BLOCKS, GPU))
    alone = flash(qkv[50:100].to(GPU), cos, sin, Rows.of((Block(0, 1, 50, 50),), GPU))
    assert torch.equal(among[50:100], alone)


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_log_probs_and_gradients_are_those_of_the_stock_decoder(precision: Precision) -> None:
    packed, plain = opened(precision), opened(precision)
    assert packed.packed is not None
    plain.packed = None
    assert pack(*some_rows()).shared == 30 + 35
    for ours, theirs in zip(results(packed), results(plain), strict=True):
        assert (ours - theirs).norm() <= 0.05 * theirs.norm()


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_checkpointing_and_another_try_change_no_bit(precision: Precision) -> None:
    first, again = (opened(precision) for _ in range(2))
    expected = results(first)
    for backbone in (again, again, opened(precision, checkpointing=True)):
        for ours, theirs in zip(results(backbone), expected, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_the_forward_has_the_same_bits_without_gradients(precision: Precision) -> None:
    backbone = opened(precision)
    log_probs, _ = results(backbone)
    with torch.no_grad(), backbone.using("policy"):
        again, _ = backbone.log_probs(*some_rows(), temperature=1.0)
    assert torch.equal(log_probs, again)


def test_4_bit_weights_are_unpacked_where_they_go() -> None:
    attention = opened("nf4").model.model.layers[0].self_attn
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    whole = AdaptedGroup(*projections).weight(torch.bfloat16)
    parts = [dense_weight(layer.frozen, torch.bfloat16) for layer in projections]
    assert torch.equal(whole, torch.cat(parts))


def test_no_wanted_tokens_give_no_states() -> None:
    backbone, (tokens, wanted) = opened("bf16"), some_rows()
    with backbone.using("policy"):
        nothing = backbone.states(tokens, torch.zeros_like(wanted))
    assert nothing.shape == (0, tiny.WIDTH)
    nothing.sum().backward()  # type: ignore[no-untyped-call]


def test_float32_goes_the_stock_way() -> None:
    assert opened("fp32").packed is None
