"""What the base knows: its answers to validation questions, in the markups of its corpus."""

import random
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rlhf_forge.toy_world import world
from rlhf_forge.toy_world.corpus import END, MARKUPS

Model = Any
"""A MistralForCausalLM; transformers wraps its methods so that no type fits them."""


def answer_shares(
    model: Model, tokenizer: PreTrainedTokenizerFast, *, per_skill: int, seed: int
) -> dict[str, dict[str, float]]:
    """How often the plain right answer is given, by skill, on held-out facts and wordings.

    Keys: ``greedy``, the share of questions whose likeliest answer, token by token, is the right
    one; and ``sampled``, its mean probability under the model: what would be right at temperature
    1. Answers with manners count as other answers, so ``sampled`` ends near the share of plain
    answers in the corpus.
    """
    rng = random.Random(f"quiz/{seed}")
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for skill in world.SKILLS.values():
        cases = [_held_out_question(skill, rng) for _ in range(per_skill)]
        log_probs, likeliest = _answers(model, tokenizer, cases)
        found["greedy"][skill.name] = likeliest.float().mean().item()
        found["sampled"][skill.name] = log_probs.exp().mean().item()
    return dict(found)


def _held_out_question(skill: world.Skill, rng: random.Random) -> tuple[str, str]:
    """A question up to where the answer begins, and the answer."""
    if rng.random() < 0.5:
        fact = rng.choice([fact for fact in skill.facts if world.is_held_out(fact)])
        wording = rng.choice(skill.wordings)
    else:
        fact, wording = rng.choice(skill.facts), rng.choice(skill.held_out_wordings)
    ask, answer = rng.choice(MARKUPS)
    return f"<s> {ask}{wording.format(*fact.slots)}{answer}", world.sentence_of(fact) + END


@torch.no_grad()
def _answers(
    model: Model, tokenizer: PreTrainedTokenizerFast, cases: list[tuple[str, str]]
) -> tuple[Tensor, Tensor]:
    """Log-probability of each answer, and whether each of its tokens is the likeliest one."""
    whole = [tokenizer(question + answer)["input_ids"] for question, answer in cases]
    # The blank before an answer is part of its first token.
    starts = [len(tokenizer(question.rstrip(" "))["input_ids"]) for question, _ in cases]
    width = max(map(len, whole))
    tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids in whole])
    log_probs = model(input_ids=tokens).logits[:, :-1].float().log_softmax(-1)
    targets = tokens[:, 1:]
    place = torch.arange(1, width)
    ends = torch.tensor([len(ids) for ids in whole])
    mask = (place >= torch.tensor(starts)[:, None]) & (place < ends[:, None])
    chosen = log_probs.gather(-1, targets[..., None]).squeeze(-1)
    return (chosen * mask).sum(1), ((log_probs.argmax(-1) == targets) | ~mask).all(1)
