"""The work of growth.py: for each piece what one size of it does, made ready and then done."""

import json
import random
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import torch
from inspect_large import BLOCK, pairs
from transformers import MistralConfig, MistralForCausalLM
from work import write_tokenizer

from rlhf_forge.backbone.attention import attention_for
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import LoraSpec
from rlhf_forge.backbone.loading import freeze
from rlhf_forge.data.collate import micro_batches
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.generation.decode import generate
from rlhf_forge.generation.engine import Request
from rlhf_forge.generation.sampler import Sampling

SIZES = {
    "batch": [8, 16, 32, 64, 128],
    "response": [32, 64, 128, 256],
    "pairs": [500, 1000, 2000, 4000],
    "adapters": [1, 2, 4, 8, 16],
    "vocabulary": [1024, 4096, 16384, 65536],
}
WIDTH, ROWS, TOKENS, VOCABULARY = 128, 8, 64, 1024
AT_ONCE = 1024


def backbone_of(*roles: str, vocabulary: int = VOCABULARY) -> Backbone:
    """A small random model with so many roles, the first of which trains."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        sliding_window=None,
        attn_implementation=attention_for(torch.device("cpu")),
    )
    backbone = Backbone(freeze(MistralForCausalLM(config)), LoraSpec())
    for role in roles:
        backbone.add_role(role, backbone.fresh_weights(seed=0), trainable=role == roles[0])
    return backbone


def learn(backbone: Backbone, rows: int, width: int) -> None:
    """Forward and backward of an SFT step in micro-batches; half of each row is learnt."""
    vocabulary = backbone.model.config.vocab_size
    tokens = torch.randint(3, vocabulary, (rows, width))
    targets = (torch.arange(width) >= width // 2).expand(rows, width)
    for part in micro_batches([width] * rows, max_tokens=AT_ONCE, pads=backbone.pads):
        with backbone.using("policy"):
            log_probs, _ = backbone.log_probs(tokens[part], targets[part], temperature=1.0)
        torch.autograd.backward(-log_probs.sum() / tokens.numel())


def batch(size: int) -> Callable[[], object]:
    """An SFT step of so many rows."""
    backbone = backbone_of("policy")
    learn(backbone, 1, 8)
    return lambda: learn(backbone, size, TOKENS)


def response(size: int) -> Callable[[], object]:
    """Responses of so many tokens, generated and learnt from."""
    backbone = backbone_of("policy")
    rng = random.Random(0)
    prompts = [[rng.randrange(3, VOCABULARY) for _ in range(TOKENS // 2)] for _ in range(ROWS)]
    requests = [Request(prompt, "policy", (0, 0, row)) for row, prompt in enumerate(prompts)]
    learn(backbone, 1, 8)

    def work() -> None:
        generate(backbone, requests, Sampling(max_new_tokens=size), (), max_rows=ROWS)
        learn(backbone, ROWS, TOKENS // 2 + size)

    return work


@cache
def block() -> list[dict[str, str]]:
    """Pairs of about 160 words, drawn once for all points."""
    return list(pairs(BLOCK, seed=0))


@cache
def tokenizer() -> TemporaryDirectory[str]:
    """A folder with a tokenizer, trained once for all points."""
    folder = TemporaryDirectory()
    write_tokenizer(Path(folder.name), vocab=4096, rng=random.Random(0))
    return folder


def read(size: int) -> Callable[[], object]:
    """So many pairs, as `fit` loads them at its start."""
    path = Path(mkdtemp()) / "pairs.jsonl"
    with path.open("w") as file:
        rows = block()[:size] if size <= BLOCK else pairs(size, seed=0)
        file.writelines(json.dumps(row) + "\n" for row in rows)
    data = PreferenceDataModule(
        str(path), bad_records="skip", max_length=10**6, tokenizer=tokenizer().name, kind="pairs"
    )

    def work() -> None:
        with redirect_stderr(StringIO()):
            data.setup("fit")

    return work


def adapters(size: int) -> Callable[[], object]:
    """A forward under each of so many roles."""
    roles = ["policy", *(f"role{number}" for number in range(1, size))]
    backbone = backbone_of(*roles)
    tokens = torch.randint(3, VOCABULARY, (ROWS, TOKENS))
    targets = (torch.arange(TOKENS) > 0).expand(ROWS, TOKENS)

    @torch.no_grad()
    def work() -> None:
        for role in roles:
            with backbone.using(role):
                backbone.log_probs(tokens, targets, temperature=1.0)

    return work


def vocabulary(size: int) -> Callable[[], object]:
    """An SFT step of a base with so large a vocabulary."""
    backbone = backbone_of("policy", vocabulary=size)
    learn(backbone, 1, 8)
    return lambda: learn(backbone, ROWS, TOKENS)


WORK: dict[str, Callable[[int], Callable[[], object]]] = {
    "batch": batch,
    "response": response,
    "pairs": read,
    "adapters": adapters,
    "vocabulary": vocabulary,
}
# What all points of a piece share; the forks that measure them find it made.
SHARED: dict[str, Sequence[Callable[[], object]]] = {"pairs": (block, tokenizer)}
