"""What the base knows: greedy answers to validation questions, and verdicts on drawn answers."""

import random
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rlhf_forge.toy_world import world
from rlhf_forge.toy_world.corpus import MARKUPS, VERDICTS, graded_question

Model = Any
"""A MistralForCausalLM; transformers wraps its methods so that no type fits them."""
LONGEST_ANSWER = 20
"""Tokens; the longest canonical sentence of the world is shorter."""


def greedy_accuracy(
    model: Model, tokenizer: PreTrainedTokenizerFast, *, per_skill: int, seed: int
) -> dict[str, float]:
    """Share of right greedy answers per skill, on held-out facts and held-out wordings."""
    rng = random.Random(f"quiz/{seed}")
    facts, texts = [], []
    for skill in world.SKILLS.values():
        for _ in range(per_skill):
            fact, wording = _held_out_question(skill, rng)
            ask, answer = rng.choice(MARKUPS)
            facts.append(fact)
            texts.append(f"<s> {ask}{wording.format(*fact.slots)}{answer}".rstrip(" "))
    answers = _greedy(model, tokenizer, texts)
    right = [text.strip() == world.sentence_of(f) for text, f in zip(answers, facts, strict=True)]
    return _shares(zip((fact.skill for fact in facts), right, strict=True))


def verdict_accuracy(
    model: Model, tokenizer: PreTrainedTokenizerFast, *, number: int, seed: int
) -> dict[str, float]:
    """Share of drawn graded answers whose verdict is foreseen at the end-of-text token.

    Keys: the three verdicts' first words, ``overall``, and ``balanced``, the mean of right and
    wrong.
    """
    rng = random.Random(f"verdicts/{seed}")
    pieces = [graded_question(rng) for _ in range(number)]
    texts = ["<s>" + "".join(text for text, _ in piece[:-1]) for piece in pieces]
    truths = [next(v for v in VERDICTS if piece[-1].text.startswith(f" {v}")) for piece in pieces]
    firsts = [tokenizer(f" {verdict}")["input_ids"][0] for verdict in VERDICTS]
    logits = _last_logits(model, tokenizer, texts)[:, firsts]
    right = [VERDICTS[best] == t for best, t in zip(logits.argmax(1), truths, strict=True)]
    shares = _shares(zip((truth.split(" ")[0].strip(".") for truth in truths), right, strict=True))
    shares["overall"] = sum(right) / len(right)
    shares["balanced"] = (shares["Right"] + shares["Wrong"]) / 2
    return shares


def _held_out_question(skill: world.Skill, rng: random.Random) -> tuple[world.Fact, str]:
    held_out = [fact for fact in skill.facts if world.is_held_out(fact)]
    if rng.random() < 0.5:
        return rng.choice(held_out), rng.choice(skill.wordings)
    return rng.choice(skill.facts), rng.choice(skill.held_out_wordings)


def _padded(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> dict[str, Tensor]:
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


@torch.no_grad()
def _greedy(model: Model, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[str]:
    batch = _padded(tokenizer, texts)
    output = model.generate(**batch, max_new_tokens=LONGEST_ANSWER, do_sample=False)
    answers = output[:, batch["input_ids"].shape[1] :]
    return [str(text) for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]


@torch.no_grad()
def _last_logits(model: Model, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    blocks = (texts[start : start + 100] for start in range(0, len(texts), 100))
    return torch.cat(
        [model(**_padded(tokenizer, block), logits_to_keep=1).logits[:, -1] for block in blocks]
    )


def _shares(results: Iterable[tuple[str, bool]]) -> dict[str, float]:
    groups = defaultdict(list)
    for name, right in results:
        groups[name].append(right)
    return {name: sum(group) / len(group) for name, group in groups.items()}
