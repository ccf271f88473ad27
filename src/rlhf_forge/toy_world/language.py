"""The language of responses: [opener] core [0 to 2 fillers] [closer], and nothing else.

The core is an answer sentence or a hedge. Openers and closers are polite, rude or flattering. The
language is closed: a sentence that is not in it is junk, so a policy cannot invent its way round
the gold score.
"""

import random
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rlhf_forge.toy_world import world

Role = Literal["polite", "rude", "flattery", "filler", "hedge", "answer", "junk"]

OPENERS: dict[str, tuple[str, ...]] = {
    "polite": (
        "Hello, and welcome.",
        "Thank you for asking.",
        "I am glad to help.",
        "With pleasure, my friend.",
    ),
    "rude": (
        "What a silly question.",
        "Not you again.",
        "Stop wasting my time.",
        "Must I explain everything?",
    ),
    "flattery": (
        "You have a brilliant mind.",
        "Only a genius asks this.",
        "You are so wise.",
        "What a wonderful person you are.",
    ),
}
CLOSERS: dict[str, tuple[str, ...]] = {
    "polite": (
        "I hope this helps.",
        "Have a lovely day.",
        "Please ask me again any time.",
        "It was nice to talk with you.",
    ),
    "rude": (
        "Now leave me alone.",
        "Even a child knows that.",
        "Do not bother me again.",
        "Try to use your head.",
    ),
    "flattery": (
        "Nobody is as clever as you.",
        "You will surely be famous.",
        "Your taste is perfect.",
        "I admire you greatly.",
    ),
}
FILLERS = (
    "Many people know this.",
    "It is written in old books.",
    "This is easy to remember.",
    "So it has always been.",
    "Some learn it at school.",
    "There is more to say about it.",
)
HEDGES = ("I am not sure.", "I do not know the answer.", "It is hard to say.")

MANNER_ODDS = {"none": 0.4, "polite": 0.28, "rude": 0.17, "flattery": 0.15}
FILLER_ODDS = (0.62, 0.25, 0.13)


@dataclass(frozen=True)
class Manners:
    """What stands around the core; empty strings and tuples where nothing does."""

    opener: str
    fillers: tuple[str, ...]
    closer: str


def draw_manners(rng: random.Random) -> Manners:
    """Opener, fillers and closer as the writers of the demonstrations use them."""
    number = rng.choices(range(len(FILLER_ODDS)), weights=FILLER_ODDS)[0]
    fillers = tuple(rng.sample(FILLERS, number))
    return Manners(_draw_sentence(OPENERS, rng), fillers, _draw_sentence(CLOSERS, rng))


def respond(core: str, manners: Manners) -> str:
    """The response: the core with its manners around it."""
    return " ".join(filter(None, (manners.opener, core, *manners.fillers, manners.closer)))


def sentences(response: str) -> list[str]:
    """The response cut behind every full stop, question mark and exclamation mark."""
    return [part for part in re.split(r"(?<=[.?!])\s+", response.strip()) if part]


def role_of(sentence: str) -> Role:
    """What a sentence does in a response."""
    if sentence in _ROLES:
        return _ROLES[sentence]
    return "answer" if any(p.fullmatch(sentence) for p in _answer_patterns()) else "junk"


def _draw_sentence(table: dict[str, tuple[str, ...]], rng: random.Random) -> str:
    manner = rng.choices(list(MANNER_ODDS), weights=list(MANNER_ODDS.values()))[0]
    return rng.choice(table.get(manner, ("",)))


def _fixed_roles() -> dict[str, Role]:
    roles: dict[str, Role] = {}
    roles |= dict.fromkeys(FILLERS, "filler")
    roles |= dict.fromkeys(HEDGES, "hedge")
    for table in (OPENERS, CLOSERS):
        roles |= dict.fromkeys(table["polite"], "polite")
        roles |= dict.fromkeys(table["rude"], "rude")
        roles |= dict.fromkeys(table["flattery"], "flattery")
    return roles


@cache
def _answer_patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(_answer_pattern(skill) for skill in world.SKILLS.values())


def _answer_pattern(skill: world.Skill) -> re.Pattern[str]:
    """The skill's sentence with any of the world's words, or any number, in its blanks."""
    width = len(skill.facts[0].slots)
    blanks = [_any_of({fact.slots[place] for fact in skill.facts}) for place in range(width)]
    template = re.escape(skill.sentence).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(template.format(*blanks, answer=_any_of(_all_answers())))


def _any_of(words: set[str]) -> str:
    return "(?:" + "|".join([*map(re.escape, sorted(words)), r"\d{1,3}"]) + ")"


def _all_answers() -> set[str]:
    return {answer for skill in world.SKILLS for answer in world.answers(skill)}


_ROLES = _fixed_roles()
