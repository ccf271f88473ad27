"""Work to measure on: a random Mistral with its tokenizer, and data of realistic lengths."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM
from transformers.utils.logging import disable_progress_bar

from rlhf_forge.toy_world.tokenizer import train_tokenizer

# Of whatever benchmark imports this.
disable_progress_bar()  # type: ignore[no-untyped-call]
ROWS = 512
SYLLABLES = [first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou"]


@dataclass(frozen=True)
class Size:
    """A Mistral's shape (heads of 64, two of them for keys and values), and rows of a step."""

    width: int
    layers: int
    ffn: int
    vocab: int
    sft_batch: int
    reward_batch: int
    ppo_batch: int


@dataclass(frozen=True)
class Lengths:
    """Tokens of a text: log-normal, cut at both ends."""

    median: int
    sigma: float
    low: int
    high: int

    def draw(self, rng: random.Random) -> int:
        """One length."""
        drawn = round(self.median * rng.lognormvariate(0.0, self.sigma))
        return max(self.low, min(self.high, drawn))


SIZES = {
    "5M": Size(256, 4, 704, 4096, sft_batch=16, reward_batch=8, ppo_batch=16),
    "31M": Size(512, 8, 1408, 8192, sft_batch=8, reward_batch=4, ppo_batch=8),
}
# Together around 100 tokens at the median.
PROMPT = Lengths(median=28, sigma=0.7, low=8, high=128)
RESPONSE = Lengths(median=70, sigma=0.8, low=10, high=256)


def write_work(size: Size, folder: Path, *, seed: int = 0) -> None:
    """Write ``base/`` and demonstrations.jsonl, pairs.jsonl, prompts.jsonl into ``folder``."""
    rng = random.Random(seed)
    words = _write_base(size, folder / "base", rng)

    def text(lengths: Lengths) -> str:
        return " ".join(rng.choice(words) for _ in range(lengths.draw(rng)))

    rows: dict[str, Iterator[dict[str, Any]]] = {
        "demonstrations": (
            {"prompt": text(PROMPT), "completion": text(RESPONSE)} for _ in range(ROWS)
        ),
        "pairs": (
            {"prompt": text(PROMPT), "chosen": text(RESPONSE), "rejected": text(RESPONSE)}
            for _ in range(ROWS)
        ),
        "prompts": ({"prompt": text(PROMPT)} for _ in range(ROWS)),
    }
    for name, records in rows.items():
        lines = (json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def config_of(size: Size, **more: Any) -> MistralConfig:
    """The Mistral of a size."""
    return MistralConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 64,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        sliding_window=None,
        **more,
    )


def write_tokenizer(folder: Path, *, vocab: int, rng: random.Random) -> list[str]:
    """Write a tokenizer; returns words that are one token each."""
    words = ["".join(parts) for parts in product(SYLLABLES, repeat=2)]
    words += ["".join(parts) for parts in product(SYLLABLES[:20], repeat=3)]
    rng.shuffle(words)
    tokenizer = train_tokenizer((f" {word}" for word in words), vocab_size=vocab)
    tokenizer.save_pretrained(folder)
    return [word for word in words if f"Ġ{word}" in tokenizer.get_vocab()]


def _write_base(size: Size, folder: Path, rng: random.Random) -> list[str]:
    """Write the model with its tokenizer; returns words that are one token each."""
    words = write_tokenizer(folder, vocab=size.vocab, rng=rng)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = config_of(
        size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    return words
