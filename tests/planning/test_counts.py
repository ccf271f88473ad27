"""The arithmetic, held against what the code really allocates."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import Precision
from rlhf_forge.backbone.packed_decoder import over_rows
from rlhf_forge.backbone.packing import BLOCK_COST
from rlhf_forge.errors import UserError
from rlhf_forge.generation.cache import SlotCache
from rlhf_forge.planning.activations import (
    Decoder,
    activations,
    adapters_kept,
    attention_kept,
    backward_extra,
    mlp_kept,
)
from rlhf_forge.planning.micro_batch import MicroBatch, Row
from rlhf_forge.planning.rollout_cache import cache_bytes
from rlhf_forge.planning.shape import Shape
from rlhf_forge.planning.weights import (
    Roles,
    adapter_bytes,
    base_bytes,
    gradient_bytes,
    moment_bytes,
)
from tests import plain_kernel
from tests.tiny import LORA, PRECISIONS, base, four_roles, open_tiny

LENGTHS = (29, 17, 16, 9)


def shape() -> Shape:
    return Shape.of(json.loads((base() / "config.json").read_text()), "tiny")


def decoder(*, recomputes: bool = False, fused: bool = False) -> Decoder:
    return Decoder(shape(), LORA.r, size=4, packs=True, recomputes=recomputes, fused=fused)


def batch() -> tuple[Tensor, Tensor]:
    """Right-padded rows, and all but the first token of each as targets."""
    width = max(LENGTHS)
    index = torch.arange(width)
    targets = torch.stack([(index > 0) & (index < length) for length in LENGTHS])
    return torch.randint(3, 500, (len(LENGTHS), width)), targets


def kept_by(backbone: Backbone, prefix: int = 0) -> int:
    """Bytes of all tensors that a forward keeps for its backward, each storage once.

    Args:
        backbone: With the role policy.
        prefix: Tokens that all rows begin with.
    """
    tokens, targets = batch()
    tokens[:, :prefix] = 7
    weights = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights and tensor.is_floating_point():
            held[place] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), backbone.using("policy"):
        log_probs, _ = backbone.log_probs(tokens, targets, temperature=1.0)
    assert log_probs.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("recomputes", [False, True])
def test_the_bytes_kept_for_the_backward_are_those_that_are_counted(
    recomputes: bool, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = four_roles(open_tiny(checkpointing=recomputes))
    if fused:
        as_on_a_gpu(backbone, monkeypatch)
    kept_by(backbone)  # joins the weights of q, k and v, so that they lie where they stay
    rows = [Row(length - 1, length - 1) for length in LENGTHS]
    part = MicroBatch.packed(rows, cuda=fused)
    how = decoder(recomputes=recomputes, fused=fused)
    if recomputes:
        # Counted at its peak, where one layer has been computed again.
        again = attention_kept(how, part) + mlp_kept(how, part, part.tokens) + adapters_kept(how)
        counted = activations(how, part) - backward_extra(how, part, part.tokens) - again
    else:
        counted = activations(how, part) - backward_extra(how, part, part.wanted)
    assert kept_by(backbone) == pytest.approx(counted, rel=0.1)


def test_what_rows_share_is_kept_once_and_its_keys_and_values_for_each_of_them() -> None:
    backbone = four_roles(open_tiny())
    kept_by(backbone)
    prefix = 6
    longest, *others = LENGTHS
    rows = [Row(longest - 1, longest - 1)]
    # A prefix's own log-probabilities are asked for in every row.
    rows += [Row(length - 1 - prefix, length - 1, prefix) for length in others]
    part = MicroBatch.packed(rows, cuda=False)
    counted = activations(decoder(), part) - backward_extra(decoder(), part, part.wanted)
    assert kept_by(backbone, prefix) == pytest.approx(counted, rel=0.1)
    without = MicroBatch.packed([replace(row, prefix=0) for row in rows], cuda=False)
    assert activations(decoder(), without) < activations(decoder(), part)


def as_on_a_gpu(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_kernel.put_in(monkeypatch)
    monkeypatch.setitem(BLOCK_COST, "cpu", BLOCK_COST["cuda"])
    assert backbone.packed is not None
    backbone.packed.attention = over_rows


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_base_has_the_bytes_that_are_counted(precision: Precision) -> None:
    model = open_tiny(precision).model
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            scales = [state.absmax, state.state2.absmax]
            held += sum(tensor.numel() * tensor.element_size() for tensor in scales)
    # Scales of scales are counted per 256 of them; a tiny layer has fewer.
    assert base_bytes(shape(), precision) == pytest.approx(held, rel=0.01)


def test_adapters_and_moments_have_the_bytes_that_are_counted() -> None:
    backbone = four_roles(open_tiny("bf16"))
    adapters = {n: p for n, p in backbone.named_parameters() if "lora_" in n}
    held = sum(p.numel() * p.element_size() for p in adapters.values())
    roles = Roles(trained=2, frozen=2)
    assert adapter_bytes(shape(), LORA.r, roles, "bf16") == held
    trained = sum(p.numel() for p in adapters.values() if p.requires_grad)
    assert gradient_bytes(shape(), LORA.r, roles) == 4 * trained
    assert moment_bytes(shape(), LORA.r, roles, kept_state=False) == 8 * trained
    assert moment_bytes(shape(), LORA.r, roles, kept_state=True) == 20 * trained


def test_the_cache_has_the_bytes_that_are_counted_less_a_layer_in_moving() -> None:
    model = open_tiny().model
    cache = SlotCache(model.config, 3, torch.device("cpu"), torch.float32)
    for position in range(20, 20 + 50 + 1):
        cache.reserve(position)
    held = sum(part.numel() * 4 for layer in cache.layers for part in layer)
    counted = cache_bytes(shape(), 4, rows=3, prompt=20, new=50)
    assert counted * shape().layers == held * (shape().layers + 1)


def test_packed_rows_are_padded_within_blocks_only_and_on_a_gpu_not_at_all() -> None:
    rows = [Row(10, 4), Row(10, 4), Row(100, 40)]
    part = MicroBatch.packed(rows, cuda=False)
    assert (part.tokens, part.wanted) == (120, 48)
    assert (part.squares, part.largest) == (100**2 + 2 * 10**2, 100**2)
    uneven = [Row(100, 40), Row(90, 40)]
    on_either = [MicroBatch.packed(uneven, cuda=cuda).tokens for cuda in (False, True)]
    assert on_either == [200, 190]
    padded = MicroBatch.padded(rows)
    assert (padded.tokens, padded.squares) == (300, 3 * 100**2)


def test_fewer_tokens_and_recomputing_never_need_more() -> None:
    small, large = (MicroBatch.packed([Row(50, 20)] * n, cuda=False) for n in (4, 8))
    assert activations(decoder(), small) < activations(decoder(), large)
    assert activations(decoder(recomputes=True), large) < activations(decoder(), large)


def test_only_attention_that_is_not_fused_grows_with_the_square_of_a_row() -> None:
    stock = replace(decoder(), packs=False)
    short, long = (MicroBatch.padded([Row(n, n)] * (1024 // n)) for n in (64, 512))
    fused = replace(stock, fused=True)
    assert activations(fused, short) == activations(fused, long)
    assert activations(stock, short) < activations(stock, long)


def test_a_config_without_a_shape_is_refused_by_the_name_of_the_base() -> None:
    with pytest.raises(UserError, match=r"base odd: its config.json does not say its shape"):
        Shape.of({"hidden_size": 64}, "odd")
