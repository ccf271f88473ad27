"""Plausible wrong answers, as a half-trained policy or a careless writer gives them."""

import random

from rlhf_forge.toy_world import world


def wrong_answer(fact: world.Fact, rng: random.Random) -> str:
    """The canonical sentence for the fact with a wrong answer in it.

    Mostly the answer of a sibling (the next number, where answers are numbers), sometimes a word of
    another skill.
    """
    if rng.random() < 0.1:
        choices = world.answers(rng.choice([name for name in world.SKILLS if name != fact.skill]))
    elif fact.skill == "bigger":
        choices = fact.slots
    elif fact.answer.isdigit() and rng.random() < 0.7:
        number = int(fact.answer)
        choices = tuple(str(n) for n in range(max(1, number - 2), number + 3))
    else:
        choices = world.answers(fact.skill)
    return world.sentence_of(fact, rng.choice([word for word in choices if word != fact.answer]))


def answer_to_another(fact: world.Fact, rng: random.Random) -> str:
    """A true sentence that was not asked for: mostly of the same skill, sometimes of another."""
    skill = fact.skill if rng.random() < 0.7 else rng.choice(list(world.SKILLS))
    right = world.sentence_of(fact)
    others = world.SKILLS[skill].facts
    return next(s for s in iter(lambda: world.sentence_of(rng.choice(others)), None) if s != right)
