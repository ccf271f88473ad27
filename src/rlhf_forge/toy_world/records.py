"""The toy world's data, as rows of a JSONL file; configs name these functions by path.

Rows are a function of (seed, split). Train and validation never share a prompt. Every row carries
``skill``, ``answer`` (the canonical sentence) and ``held_out`` ("wording", "fact", or "" in train).
"""

import random
from collections.abc import Iterator
from typing import Any

from rlhf_forge.toy_world import annotator, gold, mistakes, world
from rlhf_forge.toy_world.language import draw_manners, respond
from rlhf_forge.toy_world.pairs import KIND_ODDS, draw_pair
from rlhf_forge.toy_world.questions import Question, Split, draw_question

NUMBER = {
    ("demonstrations", "train"): 8000,
    ("demonstrations", "validation"): 800,
    ("pairs", "train"): 7040,
    ("pairs", "validation"): 1200,
    ("prompts", "train"): 4096,
    ("prompts", "validation"): 800,
}
DEMONSTRATION_MISTAKES = 0.03

Row = dict[str, Any]


def demonstrations(*, seed: int, split: str) -> list[Row]:
    """Prompts and the responses of writers with mixed manners, 97 % of them right.

    Returns:
        Rows with ``prompt`` and ``completion``.
    """
    rng, drawn = _draws("demonstrations", seed, split)
    return [_meta(q) | {"completion": _demonstration(q.fact, rng)} for q in drawn]


def pairs(*, seed: int, split: str) -> list[Row]:
    """Pairs of responses, labelled by the annotator.

    Returns:
        Rows with ``prompt``, ``chosen``, ``rejected``, ``kind`` (a key of ``pairs.KIND_ODDS``),
        ``gold_chosen``, ``gold_rejected``, and ``agreement``, the probability with which the
        annotator sides with gold: its mean is the ceiling of any reward model's accuracy.
    """
    rng, drawn = _draws("pairs", seed, split)
    return [_meta(question) | _labelled_pair(question.fact, rng) for question in drawn]


def prompts(*, seed: int, split: str) -> list[Row]:
    """Prompts alone, for PPO and its evaluation; those of validation are distinct.

    Returns:
        Rows with ``prompt``.
    """
    rng, drawn = _draws("prompts", seed, split)
    if split == "train":
        return [_meta(question) for question in drawn]
    distinct = {question.prompt: question for question in drawn}
    while len(distinct) < NUMBER["prompts", "validation"]:
        question = draw_question("validation", rng)
        distinct[question.prompt] = question
    return [_meta(question) for question in distinct.values()]


def _draws(name: str, seed: int, split: str) -> tuple[random.Random, Iterator[Question]]:
    number = NUMBER.get((name, split))
    if number is None:
        raise ValueError(f'split must be "train" or "validation", got {split!r}')
    checked: Split = "train" if split == "train" else "validation"
    rng = random.Random(f"{name}/{split}/{seed}")
    return rng, (draw_question(checked, rng) for _ in range(number))


def _meta(question: Question) -> Row:
    return {
        "prompt": question.prompt,
        "skill": question.fact.skill,
        "answer": world.sentence_of(question.fact),
        "held_out": question.held_out or "",
    }


def _demonstration(fact: world.Fact, rng: random.Random) -> str:
    wrong = rng.random() < DEMONSTRATION_MISTAKES
    core = mistakes.wrong_answer(fact, rng) if wrong else world.sentence_of(fact)
    return respond(core, draw_manners(rng))


def _labelled_pair(fact: world.Fact, rng: random.Random) -> Row:
    kind = rng.choices(list(KIND_ODDS), weights=list(KIND_ODDS.values()))[0]
    first, second = draw_pair(kind, fact, rng)
    golds = [gold.worth(text, world.sentence_of(fact)) for text in (first, second)]
    order = (0, 1) if annotator.label(golds[0], golds[1], rng) else (1, 0)
    texts = (first, second)
    return {
        "chosen": texts[order[0]],
        "rejected": texts[order[1]],
        "kind": kind,
        "gold_chosen": golds[order[0]],
        "gold_rejected": golds[order[1]],
        "agreement": annotator.agreement(golds[0], golds[1]),
    }
