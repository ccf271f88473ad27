"""A tiny random Mistral, and backbones on it, for every test that needs a model."""

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from rlhf_forge.backbone.adapter_files import AdapterWeights
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, LoraSpec, Precision
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.backbone.scalar_head import HeadWeights

VOCAB = 512
WIDTH = 128
EOS = 2
LORA = LoraSpec(r=4, alpha=8)
CPU = torch.device("cpu")
PRECISIONS: list[Precision] = ["fp32", "bf16", "nf4"]


def base_config(*, tied: bool = False) -> MistralConfig:
    """Widths are multiples of 64, the block of 4-bit weights; dropout is on, as it may be."""
    return MistralConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=None,
        attention_dropout=0.1,
        initializer_range=0.1,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=EOS,
    )


def write_base(folder: Path, *, tied: bool = False, seed: int = 0) -> Path:
    """A random model written into ``folder``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        MistralForCausalLM(base_config(tied=tied)).save_pretrained(folder)
    return folder


@cache
def base(*, tied: bool = False) -> Path:
    """The folder of the one random model that all tests of a session read and none may change."""
    folder = Path(tempfile.mkdtemp(prefix="tiny_mistral_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_base(folder, tied=tied)


def open_tiny(
    precision: Precision = "fp32", *, tied: bool = False, checkpointing: bool = False
) -> Backbone:
    """A backbone without roles on the tiny model."""
    model = load_base(BackboneConfig(str(base(tied=tied)), precision, LORA), CPU)
    return Backbone(model, LORA, gradient_checkpointing=checkpointing)


def random_weights(backbone: Backbone, *, seed: int, head: bool = False) -> AdapterWeights:
    """An adapter that changes the base's outputs; values exact in bf16, as files may hold them."""
    generator = torch.Generator().manual_seed(seed)

    def rounded(*shape: int) -> Tensor:
        return (0.1 * torch.randn(*shape, generator=generator)).bfloat16().float()

    fresh = backbone.fresh_weights(seed=seed)
    pairs = {n: (rounded(*a.shape), rounded(*b.shape)) for n, (a, b) in fresh.pairs.items()}
    weights = replace(fresh, pairs=pairs)
    return replace(weights, head=HeadWeights(rounded(1, WIDTH), 0.3, 2.0)) if head else weights


def four_roles(backbone: Backbone, *, seed: int = 0) -> Backbone:
    """The roles as PPO puts them: policy a copy of reference, value a copy of reward."""
    sft = random_weights(backbone, seed=seed)
    reward = random_weights(backbone, seed=seed + 1, head=True)
    backbone.add_role("reference", sft, trainable=False)
    backbone.add_role("policy", sft, trainable=True)
    backbone.add_role("reward", reward, trainable=False)
    backbone.add_role("value", reward, trainable=True)
    return backbone


def rows(*lengths: int, seed: int = 0) -> Tensor:
    """Random token ids, right-padded with 0; none of them is 0 or ends a sequence."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(3, VOCAB, (length,), generator=generator)
    return tokens


def spans(*pairs: tuple[int, int]) -> Tensor:
    """A mask that is True from the first number (0 or more) to before the second, row by row."""
    index = torch.arange(max(end for _, end in pairs))
    return torch.stack([(index >= start) & (index < end) for start, end in pairs])


def trainer(**more: Any) -> Trainer:
    """Lightning's, on the CPU, for one epoch, silent; it writes nothing of its own."""
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **more,
    )
