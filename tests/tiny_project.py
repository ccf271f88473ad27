"""A project as a person has one: a tiny base, a file of pairs and three configs; and its runs."""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
from transformers import MistralConfig, MistralForCausalLM

from rlhf_forge.__main__ import main
from tests.tiny_tokenizer import mistral_tokenizer

# Lightning's advice, and what PyTorch says on a machine without a GPU.
QUIET = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
CONFIG = """\
model:
  class_path: rlhf_forge.modules.{module}
  init_args:
    backbone: {{path: base, precision: fp32, lora: {{r: 2, alpha: 4}}}}
    {length}: 2
    {sampling}: {{max_new_tokens: 4}}
{more}data: {{path: pairs.jsonl, max_length: 64, batch_size: 4, validation_fraction: 0.2}}
run: x
"""
STAGES = {
    "sft": ("sft.SFTModule", "total_steps", "sampling", ""),
    "reward": ("reward.RewardModule", "total_steps", "sampling", ""),
    # Two steps on ten pairs make no reward model that its card could vouch for.
    "ppo": (
        "ppo.PPOModule",
        "total_iterations",
        "rollout",
        "    updates: {minibatch_size: 4}\n    accept_bad_card: true\n",
    ),
}
PAIRS = [
    {"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": f"No {n * 7}!"}
    for n in range(40)
]


def write_base(folder: Path, *, seed: int = 0) -> Path:
    """A random model with one layer that knows the tiny tokenizer."""
    import torch

    tokenizer = mistral_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = MistralConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            sliding_window=None,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        MistralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_project(folder: Path) -> Path:
    """Base, data and configs in ``folder``."""
    write_base(folder / "base")
    write_pairs(folder / "pairs.jsonl", PAIRS)
    for stage, (module, length, sampling, more) in STAGES.items():
        text = CONFIG.format(module=module, length=length, sampling=sampling, more=more)
        (folder / f"{stage}.yaml").write_text(text)
    return folder


def write_pairs(path: Path, rows: list[dict[str, str]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@cache
def _trained() -> Path:
    """A project whose run x has been through all stages; to be copied, not changed."""
    folder = write_project(Path(tempfile.mkdtemp(prefix="tiny_project_")))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in STAGES:
            assert main(["fit", "--config", f"{stage}.yaml"]) == 0
    return folder


def copy_trained(folder: Path) -> Path:
    """That project, in ``folder``."""
    return Path(shutil.copytree(_trained(), folder, dirs_exist_ok=True))


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The error and the hint ("" if there is none) that a command line ends with.

    Whatever else holds of the message of a mistake is asserted here.
    """
    capsys.readouterr()
    status = main(arguments)
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    hints = [line for line in err.splitlines() if line.startswith("hint: ")]
    assert status == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert "<class" not in err
    assert len(errors) == 1, err
    assert err.splitlines()[-1 - len(hints) :] == [*errors, *hints]
    return errors[0].removeprefix("error: "), "".join(hints).removeprefix("hint: ")
