import json
from pathlib import Path

import pytest

from rlhf_forge.backbone.sizes import adapter_numbers
from rlhf_forge.errors import UserError
from tests import tiny


def test_an_adapter_is_as_large_as_its_config_says() -> None:
    weights = tiny.open_tiny().fresh_weights(seed=0)
    numbers = sum(down.numel() + up.numel() for down, up in weights.pairs.values())
    assert adapter_numbers("base", tiny.base(), rank=tiny.LORA.r) == numbers


def test_only_the_config_is_read(tmp_path: Path) -> None:
    config = json.loads((tiny.base() / "config.json").read_text())
    mistral_7b = {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 32768,
    }
    (tmp_path / "config.json").write_text(json.dumps(config | mistral_7b))
    # Seven layers a block: q and o, k and v, gate and up, down.
    block = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)
    assert adapter_numbers("base", tmp_path, rank=16) == 16 * 32 * block


def test_a_config_of_no_causal_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "none-such"}')
    with pytest.raises(UserError, match=r"^base mine: cannot be loaded: ") as caught:
        adapter_numbers("mine", tmp_path, rank=16)
    assert "\n" not in str(caught.value)
