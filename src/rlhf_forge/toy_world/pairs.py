"""Pairs of responses to one question, of the kinds a preference file holds."""

import random
from collections.abc import Callable

from rlhf_forge.toy_world import language, mistakes, world
from rlhf_forge.toy_world.language import draw_manners, respond

KIND_ODDS = {
    "policy_like": 0.42,
    "style": 0.25,
    "mixed": 0.08,
    "correctness": 0.08,
    "bad_answer": 0.17,
}
POLICY_MISTAKES = 0.1
"""Share of wrong facts in responses such as a policy after SFT gives."""


def draw_pair(kind: str, fact: world.Fact, rng: random.Random) -> tuple[str, str]:
    """Two different responses to a question about the fact, in no meaningful order.

    Args:
        kind: A key of ``KIND_ODDS``: ``policy_like`` two responses as a policy after SFT gives
            them; ``style`` the same right core with other manners; ``mixed`` right and wrong, each
            with manners of its own; ``correctness`` right and wrong within the same manners;
            ``bad_answer`` a demonstration and something worse.
        fact: What is asked about.
        rng: Where chance comes from.
    """
    while True:
        first, second = _DRAW[kind](fact, rng)
        if first != second:
            return (first, second) if rng.random() < 0.5 else (second, first)


def _policy_like(fact: world.Fact, rng: random.Random) -> tuple[str, str]:
    return _policy_response(fact, rng), _policy_response(fact, rng)


def _style(fact: world.Fact, rng: random.Random) -> tuple[str, str]:
    core = world.sentence_of(fact)
    return respond(core, draw_manners(rng)), respond(core, draw_manners(rng))


def _mixed(fact: world.Fact, rng: random.Random) -> tuple[str, str]:
    right, wrong = world.sentence_of(fact), mistakes.wrong_answer(fact, rng)
    return respond(right, draw_manners(rng)), respond(wrong, draw_manners(rng))


def _correctness(fact: world.Fact, rng: random.Random) -> tuple[str, str]:
    manners = draw_manners(rng)
    right, wrong = world.sentence_of(fact), mistakes.wrong_answer(fact, rng)
    return respond(right, manners), respond(wrong, manners)


def _bad_answer(fact: world.Fact, rng: random.Random) -> tuple[str, str]:
    good = respond(world.sentence_of(fact), draw_manners(rng))
    return good, rng.choice(_BAD)(fact, rng)


def _policy_response(fact: world.Fact, rng: random.Random) -> str:
    wrong = rng.random() < POLICY_MISTAKES
    core = mistakes.wrong_answer(fact, rng) if wrong else world.sentence_of(fact)
    return respond(core, draw_manners(rng))


def _wrong(fact: world.Fact, rng: random.Random) -> str:
    return respond(mistakes.wrong_answer(fact, rng), draw_manners(rng))


def _hedge(fact: world.Fact, rng: random.Random) -> str:
    return respond(rng.choice(language.HEDGES), draw_manners(rng))


def _other(fact: world.Fact, rng: random.Random) -> str:
    return respond(mistakes.answer_to_another(fact, rng), draw_manners(rng))


def _manners_only(fact: world.Fact, rng: random.Random) -> str:
    return next(text for text in iter(lambda: respond("", draw_manners(rng)), None) if text)


def _repeats(fact: world.Fact, rng: random.Random) -> str:
    parts = language.sentences(respond(world.sentence_of(fact), draw_manners(rng)))
    place = rng.randrange(len(parts))
    return " ".join([*parts[: place + 1], *[parts[place]] * rng.randint(1, 2), *parts[place + 1 :]])


_Draw = Callable[[world.Fact, random.Random], tuple[str, str]]
_DRAW: dict[str, _Draw] = {
    "policy_like": _policy_like,
    "style": _style,
    "mixed": _mixed,
    "correctness": _correctness,
    "bad_answer": _bad_answer,
}
_BAD = (_wrong, _hedge, _other, _manners_only, _repeats)
