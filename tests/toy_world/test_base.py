import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_forge.toy_world import quiz, world

BASE = Path(str(resources.files("rlhf_forge.toy_world") / "base"))


def test_the_base_is_small() -> None:
    assert sum(file.stat().st_size for file in BASE.iterdir()) <= 10 * 2**20


def test_the_base_loads_with_its_tokenizer() -> None:
    model = AutoModelForCausalLM.from_pretrained(BASE)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    assert model.dtype == torch.bfloat16
    assert model.config.model_type == "mistral"
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert tokenizer.chat_template is None
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 5)
    assert tokenizer.decode(tokenizer("Ünï 你好")["input_ids"]) == "Ünï 你好"


def test_the_log_says_that_every_skill_is_known() -> None:
    last = json.loads((BASE / "train_log.jsonl").read_text().splitlines()[-1])
    greedy = last["answers"]["greedy"]
    assert set(greedy) == set(world.SKILLS)
    assert min(greedy.values()) >= 0.8


@pytest.mark.slow
def test_the_base_knows_the_world() -> None:
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(BASE)
    known = quiz.answer_shares(model, tokenizer, per_skill=10, seed=1)["greedy"]
    assert sum(known.values()) / len(known) >= 0.9
