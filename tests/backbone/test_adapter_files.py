import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_forge.backbone.adapter_files import CONFIG, HEAD, WEIGHTS, read_adapter, write_adapter
from rlhf_forge.backbone.bitsandbytes_guard import import_peft
from rlhf_forge.backbone.scoring import score
from rlhf_forge.errors import UserError
from tests import tiny

OLD_NAME_IN_PEFT = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
TOKENS = tiny.rows(9, 14, 6, 11)
LENGTHS = [9, 14, 6, 11]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    weights = tiny.random_weights(tiny.open_tiny(), seed=0)
    write_adapter(weights, tmp_path / "policy", base=str(tiny.base()))
    return tmp_path / "policy"


@pytest.fixture
def reward(tmp_path: Path) -> Path:
    weights = tiny.random_weights(tiny.open_tiny(), seed=1, head=True)
    write_adapter(weights, tmp_path / "reward", base=str(tiny.base()))
    return tmp_path / "reward"


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_adapter(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def edit_weights(folder: Path, changes: dict[str, Tensor | None]) -> None:
    tensors = load_file(folder / WEIGHTS) | changes
    save_file({n: t for n, t in tensors.items() if t is not None}, folder / WEIGHTS)


def test_what_is_written_is_read_back_bit_for_bit(reward: Path) -> None:
    written, read = tiny.random_weights(tiny.open_tiny(), seed=1, head=True), read_adapter(reward)
    assert read.lora == written.lora
    assert read.pairs.keys() == written.pairs.keys()
    for name, pair in written.pairs.items():
        assert all(
            torch.equal(one, other) for one, other in zip(pair, read.pairs[name], strict=True)
        )
    assert read.head is not None
    assert written.head is not None
    assert torch.equal(read.head.weight, written.head.weight)
    assert_close((read.head.mean, read.head.std), (written.head.mean, written.head.std))


def test_a_policy_has_no_head_on_disk(policy: Path) -> None:
    assert not (policy / HEAD).exists()
    assert read_adapter(policy).head is None


@pytest.mark.filterwarnings(OLD_NAME_IN_PEFT)
def test_stock_peft_computes_a_policys_logits(policy: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny.base())
    stock = import_peft().PeftModel.from_pretrained(base, policy).eval()
    backbone = tiny.open_tiny()
    backbone.add_role("policy", read_adapter(policy), trainable=False)
    with torch.no_grad(), backbone.using("policy"):
        ours = backbone.model.lm_head(backbone.hidden(TOKENS))
        theirs = stock(TOKENS).logits
    for row, length in enumerate(LENGTHS):
        gap = (ours[row, :length] - theirs[row, :length]).abs().max()
        assert gap <= 1e-5 * theirs.abs().max()


@pytest.mark.filterwarnings(OLD_NAME_IN_PEFT)
def test_stock_peft_computes_a_reward_models_raw_scores(reward: Path) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny.base(), num_labels=1, pad_token_id=0
    )
    stock = import_peft().PeftModel.from_pretrained(base, reward).eval()
    backbone = tiny.open_tiny()
    backbone.add_role("reward", read_adapter(reward), trainable=False)
    mask = tiny.spans(*((2, length) for length in LENGTHS))
    with torch.no_grad():
        raw = stock(TOKENS).logits.squeeze(-1)
        scores = score(backbone, TOKENS, mask)
    head = backbone.weights_of("reward").head
    assert head is not None
    assert_close(scores * head.std + head.mean, raw, atol=1e-5 * raw.std().item(), rtol=0)


@pytest.mark.filterwarnings(OLD_NAME_IN_PEFT)
def test_an_adapter_of_stock_peft_is_read(tmp_path: Path) -> None:
    peft = import_peft()
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    base = AutoModelForCausalLM.from_pretrained(tiny.base())
    peft.get_peft_model(base, config, "mine").save_pretrained(tmp_path)
    weights = read_adapter(tmp_path / "mine")
    assert weights.lora == tiny.LORA
    tiny.open_tiny().add_role("policy", weights, trainable=True)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    assert "no adapter here (adapter_config.json is missing)" in refusal(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS, HEAD])
def test_a_truncated_file_is_refused(reward: Path, name: str) -> None:
    content = (reward / name).read_bytes()
    (reward / name).write_bytes(content[: len(content) // 2])
    assert f"{name}: truncated or not a safetensors file" in refusal(reward)


def test_missing_weights_are_refused(policy: Path) -> None:
    (policy / WEIGHTS).unlink()
    assert f"{WEIGHTS}: missing" in refusal(policy)


def test_a_missing_head_is_refused_rather_than_its_scale_lost(reward: Path) -> None:
    (reward / HEAD).unlink()
    assert "holds base_model.model.score.weight" in refusal(reward)


def test_a_head_without_its_scale_is_refused(reward: Path) -> None:
    save_file({"weight": torch.zeros(1, tiny.WIDTH)}, reward / HEAD)
    assert f"{HEAD}: holds no mean" in refusal(reward)


@pytest.mark.parametrize("text", ["{", "[]", '{"r": 4}', '{"peft_type": "IA3"}', ""])
def test_a_config_that_is_no_lora_adapters_is_refused(policy: Path, text: str) -> None:
    (policy / CONFIG).write_text(text)
    refusal(policy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("use_rslora", True),
        ("rank_pattern", {"q_proj": 2}),
        ("alpha_pattern", {"q_proj": 2}),
        ("peft_type", "ADALORA"),
        ("r", 0),
        ("lora_alpha", 0.5),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_name(policy: Path, key: str, value: object) -> None:
    edit_config(policy, **{key: value})
    assert key in refusal(policy)


def test_a_surplus_tensor_is_refused_by_name(policy: Path) -> None:
    edit_weights(policy, {"base_model.model.model.embed_tokens.weight": torch.zeros(2, 2)})
    assert "holds base_model.model.model.embed_tokens.weight" in refusal(policy)


def test_half_a_pair_is_refused_by_name(policy: Path) -> None:
    missing = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    edit_weights(policy, {missing: None})
    assert missing in refusal(policy)


def test_weights_of_another_rank_than_the_config_says_are_refused(policy: Path) -> None:
    edit_config(policy, r=7)
    assert "says r 7" in refusal(policy)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [WEIGHTS, HEAD])
def test_numbers_that_are_not_finite_are_refused_by_name(
    reward: Path, name: str, number: float
) -> None:
    tensors = load_file(reward / name)
    odd = max(tensors)
    tensors[odd].view(-1)[-1] = number
    save_file(tensors, reward / name)
    assert f"{name}: {odd} holds NaN or infinity" in refusal(reward)
