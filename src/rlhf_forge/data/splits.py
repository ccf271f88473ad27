"""What is trained on and what is held out, by prompt, and what a group of answers counts for."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from rlhf_forge.data.loading import Loaded
from rlhf_forge.data.records import Record
from rlhf_forge.data.tokenize import Example, PairExample
from rlhf_forge.errors import UserError


def split_held_out(loaded: Loaded, fraction: float) -> tuple[Loaded, list[Example]]:
    """Take about ``fraction`` of the prompts out, by a hash of the prompt.

    Where a prompt falls depends on its text alone: all answers to it, a whole group too, fall on
    one side, and other data, more or less of it or in another order, never moves it across.

    Raises:
        UserError: If ``fraction`` is none, or nothing is left to train on.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"data.validation_fraction: {fraction:g} is not from 0 to below 1")
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in loaded.examples:
        sides[_place(example.record) < fraction].append(example)
    train, held_out = sides
    if not train:
        raise UserError(
            f"{loaded.path}: all {len(held_out)} records fall to the held-out share "
            f"(data.validation_fraction {fraction:g}), none to training",
            hint="lower data.validation_fraction, or give data.validation a file of its own",
        )
    return replace(loaded, examples=train), held_out


def prompt_digest(record: Record) -> bytes:
    """SHA-256 of a record's prompt: of roles and texts, without the blanks around a turn.

    A record without a prompt stands for itself, by its response.
    """
    content = record.prompt or getattr(record, "response", None) or getattr(record, "chosen", [])
    turns = [turn | {"content": turn["content"].strip()} for turn in content]
    return sha256(json.dumps(turns, sort_keys=True, ensure_ascii=False).encode()).digest()


def on_both_sides(train: Sequence[Example], held_out: Sequence[Example]) -> int:
    """How many held-out records have a prompt that is trained on."""
    known = {prompt_digest(example.record) for example in train}
    return sum(prompt_digest(example.record) in known for example in held_out)


def weighted_by_group(examples: list[Example]) -> list[Example]:
    """The examples, each pair of a group of k with the weight 1/k, scaled to 1 on average.

    So a prompt with nine answers, which make 36 pairs, counts as much as one with two. InstructGPT
    divides by the number of pairs in the same way; it also keeps them in one batch, and here each
    pair stands for itself in the stream.

    Source: Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, eq. 1.
    """
    pairs = [example for example in examples if isinstance(example, PairExample)]
    sizes = Counter(pair.record.group for pair in pairs if pair.record.group is not None)
    if not any(size > 1 for size in sizes.values()):
        return examples
    units = len(sizes) + sum(pair.record.group is None for pair in pairs)
    scale = len(pairs) / units
    return [replace(pair, weight=scale / sizes.get(pair.record.group or "", 1)) for pair in pairs]


def _place(record: Record) -> float:
    """Where in [0, 1) the record's prompt falls."""
    return int.from_bytes(prompt_digest(record)[:8]) / 2**64
