"""The step of one new token a row against the stock decoder's forward."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import Precision
from rlhf_forge.backbone.decode_step import DecodeStep
from rlhf_forge.generation.cache import SlotCache
from tests import tiny

ROLES = ["base", "policy", "reference", "reward"]
OWN = [3, 0, 1, 1, 2, 3]  # of each row, by number in ROLES
LENGTHS = (9, 4, 14, 1, 6, 11)
# Of logits about 4 in size.
TOLERANCE = {"fp32": 1e-5, "bf16": 0.1, "nf4": 0.1}


def backbone_of(precision: Precision, *, tied: bool = False) -> Backbone:
    backbone = tiny.four_roles(tiny.open_tiny(precision, tied=tied))
    backbone.add_bare_role("base")
    return backbone


@torch.no_grad()
def read(backbone: Backbone, roles: list[str], *, slots: int = 8) -> SlotCache:
    """A cache with a prompt in each of the first slots."""
    cache = SlotCache(backbone.model.config, slots, backbone.device, backbone.model.dtype)
    cache.reserve(max(LENGTHS) + 1)
    for slot, (role, length) in enumerate(zip(roles, LENGTHS, strict=True)):
        tokens = tiny.rows(length, seed=slot)
        positions = torch.arange(length)[None]
        with backbone.using(role):
            backbone.next_logits(tokens, cache.place(slot, positions), positions, cache)
    return cache


@torch.no_grad()
def stock(backbone: Backbone, cache: SlotCache, tokens: Tensor, roles: list[str]) -> Tensor:
    positions = torch.tensor(LENGTHS)[:, None]
    mask = cache.place(0, positions)
    with backbone.using(roles):
        return backbone.next_logits(tokens[:, None], mask, positions, cache)


def ours(
    backbone: Backbone, cache: SlotCache, tokens: Tensor, *, roles: list[str] = ROLES
) -> Tensor:
    own = torch.tensor([roles.index(ROLES[number]) for number in OWN])
    step = DecodeStep(backbone, roles)
    return step(tokens, torch.tensor(LENGTHS), own, cache.layers, max(LENGTHS) + 1)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_rows_of_all_roles_get_the_stock_decoders_logits_keys_and_values(
    precision: Precision, tied: bool
) -> None:
    backbone = backbone_of(precision, tied=tied)
    roles = [ROLES[number] for number in OWN]
    caches = [read(backbone, roles) for _ in range(2)]
    tokens = tiny.rows(*[1] * len(OWN), seed=9)[:, 0]
    expected = stock(backbone, caches[0], tokens, roles)
    found = ours(backbone, caches[1], tokens)
    assert found.dtype == torch.float32
    assert_close(found, expected, rtol=0, atol=TOLERANCE[precision])
    for layers in zip(caches[0].layers, caches[1].layers, strict=True):
        for one, other in zip(*layers, strict=True):
            assert_close(one, other, rtol=0, atol=TOLERANCE[precision])


@pytest.mark.parametrize("role", ROLES)
def test_rows_of_one_role_get_the_stock_decoders_logits(role: str) -> None:
    backbone = backbone_of("fp32")
    roles = [role] * len(LENGTHS)
    caches = [read(backbone, roles) for _ in range(2)]
    tokens = tiny.rows(*[1] * len(OWN), seed=9)[:, 0]
    expected = stock(backbone, caches[0], tokens, roles)
    step = DecodeStep(backbone, [role])
    nothing = torch.zeros(len(LENGTHS), dtype=torch.long)
    found = step(tokens, torch.tensor(LENGTHS), nothing, caches[1].layers, max(LENGTHS) + 1)
    assert_close(found, expected, rtol=0, atol=1e-5)


def test_more_columns_than_are_needed_and_more_rows_change_nothing() -> None:
    backbone = backbone_of("fp32")
    cache = read(backbone, [ROLES[number] for number in OWN])
    tokens = tiny.rows(*[1] * len(OWN), seed=9)[:, 0]
    expected = ours(backbone, cache, tokens)
    cache.reserve(100)
    # What a row before has left there, as slots are never cleared.
    for keys, values in cache.layers:
        keys[:, :, max(LENGTHS) + 1 :] = values[:, :, max(LENGTHS) + 1 :] = 1e4
    more = torch.zeros(2, dtype=torch.long)
    found = DecodeStep(backbone, ROLES)(
        torch.cat([tokens, more]),
        torch.cat([torch.tensor(LENGTHS), more]),
        torch.cat([torch.tensor(OWN), more]),
        cache.layers,
        90,
    )
    assert_close(found[: len(OWN)], expected, rtol=0, atol=1e-5)


def test_the_order_of_roles_means_nothing() -> None:
    backbone = backbone_of("fp32")
    cache = read(backbone, [ROLES[number] for number in OWN])
    tokens = tiny.rows(*[1] * len(OWN), seed=9)[:, 0]
    expected = ours(backbone, cache, tokens)
    assert_close(ours(backbone, cache, tokens, roles=ROLES[::-1]), expected, rtol=0, atol=1e-5)


def test_a_step_keeps_the_adapters_as_they_were() -> None:
    backbone = backbone_of("fp32")
    cache = read(backbone, ["policy"] * len(OWN))
    tokens = tiny.rows(*[1] * len(OWN), seed=9)[:, 0]
    numbers = torch.zeros(len(OWN), dtype=torch.long)
    step = DecodeStep(backbone, ["policy"])

    def found() -> Tensor:
        return step(tokens, torch.tensor(LENGTHS), numbers, cache.layers, max(LENGTHS) + 1)

    before = found()
    with torch.no_grad():
        for parameter in backbone.parameters_of("policy"):
            parameter.mul_(2)
    assert torch.equal(found(), before)
    step = DecodeStep(backbone, ["policy"])
    assert not torch.equal(found(), before)


def test_a_decoder_that_does_not_pack_has_no_step_of_its_own() -> None:
    backbone = backbone_of("fp32")
    backbone.packed = None
    with pytest.raises(ValueError, match="only a decoder that packs"):
        DecodeStep(backbone, ["policy"])
