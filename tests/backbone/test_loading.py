import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MistralForCausalLM, PreTrainedModel

from rlhf_forge.backbone.config import BackboneConfig, Precision
from rlhf_forge.backbone.loading import content_fingerprint, context_of, load_base
from rlhf_forge.errors import UserError
from tests import tiny

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny base that a test may break."""
    return Path(shutil.copytree(tiny.base(), tmp_path / "base"))


def load(folder: Path, precision: Precision = "fp32") -> PreTrainedModel:
    return load_base(BackboneConfig(str(folder), precision), tiny.CPU)


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("precision", tiny.PRECISIONS)
def test_a_loaded_base_has_nothing_to_train_and_no_dropout(
    precision: Precision, tied: bool
) -> None:
    model = load(tiny.base(tied=tied), precision)
    assert not any(p.requires_grad for p in model.parameters())
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert {layer.self_attn.attention_dropout for layer in model.model.layers} == {0.0}
    assert model.lm_head.weight.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("mode", [False, True])
def test_two_forwards_are_bit_identical_in_any_mode(mode: bool, checkpointing: bool) -> None:
    backbone = tiny.four_roles(tiny.open_tiny(checkpointing=checkpointing)).train(mode)
    tokens = tiny.rows(9, 12)
    with backbone.using("policy"):
        assert torch.equal(backbone.hidden(tokens), backbone.hidden(tokens))


def test_4_bit_weights_are_stored_in_4_bit() -> None:
    model = load(tiny.base(), "nf4")
    weight = model.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.uint8
    assert weight.quant_state.nested
    assert weight.quant_state.quant_type == "nf4"


def test_weights_that_are_pickles_are_refused(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert "no *.safetensors file" in refusal(folder)


def test_truncated_weights_are_refused(folder: Path) -> None:
    truncate(folder / WEIGHTS)
    assert "cannot be loaded" in refusal(folder)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        content_fingerprint(folder)


def test_a_base_that_lacks_a_tensor_is_refused_rather_than_filled_with_noise(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in refusal(folder)


def test_a_base_with_a_tensor_of_another_shape_is_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(8, 8)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    assert "up_proj.weight is missing or of another shape" in refusal(folder)


def test_a_folder_without_a_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    refusal(folder)
    with pytest.raises(UserError, match=r"config\.json is missing"):
        content_fingerprint(folder)


def test_a_broken_config_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    refusal(folder)


def test_what_is_no_causal_lm_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    assert "cannot be loaded" in refusal(folder)


def test_a_fingerprint_is_the_same_on_every_reading_and_in_every_place(folder: Path) -> None:
    assert content_fingerprint(folder) == content_fingerprint(folder)
    assert content_fingerprint(folder) == content_fingerprint(tiny.base())


def test_a_fingerprint_changes_with_any_one_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    prints = {content_fingerprint(folder)}
    for second, (name, tensor) in enumerate(tensors.items()):
        save_file({**tensors, name: tensor + 1e-3}, folder / WEIGHTS, metadata={"format": "pt"})
        os.utime(folder / WEIGHTS, (second, second))  # the clock of files may tick too slowly
        prints.add(content_fingerprint(folder))
    assert len(prints) == 1 + len(tensors)


def test_a_fingerprint_changes_with_the_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert content_fingerprint(folder) != content_fingerprint(tiny.base())


def test_a_fingerprint_does_not_depend_on_how_weights_are_cut_into_files(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "config.json").unlink()
    model = MistralForCausalLM.from_pretrained(tiny.base())
    model.save_pretrained(folder, max_shard_size="300KB")
    shutil.copy(tiny.base() / "config.json", folder / "config.json")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert content_fingerprint(folder) == content_fingerprint(tiny.base())


def test_a_fingerprint_leaves_out_the_second_copy_of_all_weights(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "consolidated.safetensors")
    assert content_fingerprint(folder) == content_fingerprint(tiny.base())


def test_the_context_is_what_the_bases_config_says() -> None:
    assert context_of(str(tiny.base())) == 256


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"max_position_embeddings": "many"}', None])
def test_a_config_that_does_not_say_the_context_is_refused(folder: Path, text: str | None) -> None:
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json does not say max_position_embeddings"):
        context_of(str(folder))
