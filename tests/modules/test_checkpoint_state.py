from typing import Any

import pytest
import torch
from torch import nn

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, LoraSpec
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.errors import UserError
from rlhf_forge.modules.checkpoint_state import (
    keep_trainable,
    require_same_tensors,
    trainable_names,
)
from tests import tiny


class Holder(nn.Module):
    """What a Lightning module is to its checkpoint: a module with a backbone."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def checkpoint(self) -> dict[str, Any]:
        checkpoint: dict[str, Any] = {"state_dict": self.state_dict(), "epoch": 1}
        keep_trainable(checkpoint, self.backbone)
        return checkpoint


@pytest.fixture
def holder() -> Holder:
    return Holder(tiny.four_roles(tiny.open_tiny("nf4")))


def test_a_checkpoint_holds_the_trained_adapters_and_heads_and_nothing_of_the_base(
    holder: Holder,
) -> None:
    checkpoint = holder.checkpoint()
    kept = checkpoint["state_dict"]
    count = sum(len(holder.backbone.parameters_of(role)) for role in ("policy", "value"))
    assert set(kept) == trainable_names(holder.backbone)
    assert len(kept) == count
    assert all(".policy" in name or ".value" in name for name in kept)
    assert checkpoint["epoch"] == 1


def test_a_checkpoint_puts_every_trained_tensor_back(holder: Holder) -> None:
    checkpoint = holder.checkpoint()
    saved = {name: tensor.clone() for name, tensor in checkpoint["state_dict"].items()}
    with torch.no_grad():
        for parameter in holder.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    require_same_tensors({"state_dict": saved}, holder.backbone)
    report = holder.load_state_dict(saved, strict=False)
    assert not report.unexpected_keys
    now = holder.checkpoint()["state_dict"]
    assert all(torch.equal(now[name], saved[name]) for name in saved)


def refusal(checkpoint: dict[str, Any], backbone: Backbone) -> str:
    with pytest.raises(UserError, match="not of this run's adapters") as caught:
        require_same_tensors(checkpoint, backbone)
    assert "\n" not in str(caught.value)
    assert caught.value.hint is not None
    return str(caught.value)


def test_a_missing_and_a_surplus_tensor_are_refused_by_name(holder: Holder) -> None:
    checkpoint = holder.checkpoint()
    name, tensor = checkpoint["state_dict"].popitem()
    assert name in refusal(checkpoint, holder.backbone)
    checkpoint["state_dict"] |= {name: tensor, "backbone.critic": tensor}
    assert "backbone.critic" in refusal(checkpoint, holder.backbone)


def test_adapters_of_another_rank_are_refused_by_name() -> None:
    saved, ours = trained(LoraSpec(r=8)), trained(LoraSpec(r=4))
    assert "lora_A.policy" in refusal(Holder(saved).checkpoint(), ours)


def trained(lora: LoraSpec) -> Backbone:
    model = load_base(BackboneConfig(str(tiny.base()), "fp32", lora), tiny.CPU)
    backbone = Backbone(model, lora)
    backbone.add_role("policy", backbone.fresh_weights(seed=0), trainable=True)
    return backbone
