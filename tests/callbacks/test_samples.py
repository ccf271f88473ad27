"""Answers before and after, side by side."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_forge.callbacks.samples import SampleWriter
from rlhf_forge.data.records import Prompt, user
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.generation.decode import generate
from rlhf_forge.generation.engine import Request
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
    trainer: Any = SimpleNamespace(default_root_dir=tmp_path, loggers=[], is_global_zero=True)
    SampleWriter(number=2)._write(trainer, module, 5)
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == list(TEXTS[:2])
    assert all(line.keys() == {"iteration", "prompt", reference, "ppo"} for line in lines)
    for key, role in ((reference, "reference"), ("ppo", "policy")):
        request = Request(TEMPLATE.prompt(user(TEXTS[1])), role, (3, HELD_OUT, 1))
        [alone] = generate(module.backbone, [request], SAMPLING, TEMPLATE.eos_ids, max_rows=1)
        assert lines[1][key] == TEMPLATE.decode(alone.tokens)


def resumed(folder: Path, *, after: int) -> Any:
    """A trainer that goes on behind so many iterations."""
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=after - 1))
    return SimpleNamespace(default_root_dir=folder, fit_loop=loop, is_global_zero=True)


def test_a_run_that_goes_on_forgets_samples_that_it_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    lines = [
        json.dumps({"iteration": n, "ppo": "ä\u2028b"}, ensure_ascii=False) + "\n"
        for n in (2, 4, 6)
    ]
    path.write_text("".join(lines) + '{"iteration": 6, "pp')
    SampleWriter().on_train_start(resumed(tmp_path, after=5), ppo("sft"))
    assert path.read_text() == "".join(lines[:2])


def test_a_run_that_goes_on_keeps_samples_up_to_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"iteration": 2}\n{"iteration": 4}\n')
    SampleWriter().on_train_start(resumed(tmp_path, after=4), ppo("sft"))
    assert path.read_text() == '{"iteration": 2}\n{"iteration": 4}\n'
    SampleWriter().on_train_start(resumed(tmp_path / "new", after=0), ppo("sft"))
    assert not (tmp_path / "new").exists()
