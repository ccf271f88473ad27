"""Answers before and after, side by side."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_forge.callbacks.samples import SampleWriter
from rlhf_forge.data.records import Prompt, user
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.generation.decode import Request, generate
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.responses import HELD_OUT
from tests import tiny
from tests.tiny_tokenizer import mistral_template

TEMPLATE = mistral_template()
TEXTS = ("Hello", "Is snow white?", "Why?")
SAMPLING = Sampling(max_new_tokens=4)


def ppo(reference: str) -> Any:
    """As much of a PPO module as is asked for answers."""
    backbone = tiny.four_roles(tiny.open_tiny())
    backbone.add_role("policy", tiny.random_weights(backbone, seed=7), trainable=False)
    records = [Prompt(user(text), "here", {}) for text in TEXTS]
    return SimpleNamespace(
        backbone=backbone,
        template=TEMPLATE,
        sampling=SAMPLING,
        seed=3,
        max_rows=8,
        reference=reference,
        held_out=[PromptExample(TEMPLATE.prompt(r.prompt), r) for r in records],
    )


@pytest.mark.parametrize("reference", ["sft", "base"])
def test_each_line_holds_what_reference_and_policy_answer_to_a_prompt(
    reference: str, tmp_path: Path
) -> None:
    module = ppo(reference)
    trainer: Any = SimpleNamespace(default_root_dir=tmp_path, loggers=[])
    SampleWriter(number=2)._write(trainer, module, 5)
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == list(TEXTS[:2])
    assert all(line.keys() == {"iteration", "prompt", reference, "ppo"} for line in lines)
    for key, role in ((reference, "reference"), ("ppo", "policy")):
        request = Request(TEMPLATE.prompt(user(TEXTS[1])), role, (3, HELD_OUT, 1))
        [alone] = generate(module.backbone, [request], SAMPLING, TEMPLATE.eos_ids, max_rows=1)
        assert lines[1][key] == TEMPLATE.decode(alone.tokens)
