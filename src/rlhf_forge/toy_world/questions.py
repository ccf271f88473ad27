"""Which questions belong to training and which to validation.

Validation asks, half and half, about known facts in held-out wordings and about held-out facts in
known wordings. The base has read both; no later stage trains on either.
"""

import random
from functools import cache
from typing import Literal, NamedTuple

from rlhf_forge.toy_world import world

Split = Literal["train", "validation"]
HeldOut = Literal["wording", "fact"]


class Question(NamedTuple):
    """A prompt, and the fact it asks about."""

    prompt: str
    fact: world.Fact
    held_out: HeldOut | None


def draw_question(split: Split, rng: random.Random) -> Question:
    """A question of the split: every skill asked about equally likely, then any of its questions.

    Raises:
        ValueError: If ``split`` is neither "train" nor "validation".
    """
    skill = rng.choice(list(world.SKILLS.values()))
    if split == "train":
        return _ask(skill, rng, held_out=None)
    if split == "validation":
        return _ask(skill, rng, held_out=rng.choice(("wording", "fact")))
    raise ValueError(f'split must be "train" or "validation", got {split!r}')


def _ask(skill: world.Skill, rng: random.Random, *, held_out: HeldOut | None) -> Question:
    wordings = skill.held_out_wordings if held_out == "wording" else skill.wordings
    fact = rng.choice(_facts(skill.name, held_out=held_out == "fact"))
    return Question(rng.choice(wordings).format(*fact.slots), fact, held_out)


@cache
def _facts(skill: str, *, held_out: bool) -> list[world.Fact]:
    facts = world.SKILLS[skill].facts
    return [fact for fact in facts if world.is_held_out(fact) == held_out]
