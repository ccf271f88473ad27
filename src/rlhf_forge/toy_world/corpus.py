"""The texts the shipped base is trained on: what a pretraining set would hold of this world.

Statements of facts, questions with their plain answers, and conversations whose answers have
manners around them, in several plain markups. All of it is true, and the chat template's markers
never occur: to answer in a chat, and as the demonstrations do, is what the stages teach.

Some conversations have a note in the margin, behind their end: a word for the manners, another for
the length. Whoever foresees it must have summed up the answer by its end-of-text token, which is
where a reward model reads its score. A base that had read nothing behind that token left nothing to
read there: the reward model of 5,000 pairs saw manners in .70 of pairs where .79 is possible.
"""

import random
from collections.abc import Callable, Iterator, Sequence

from rlhf_forge.toy_world import language, world

END = "</s>"
MARKUPS = (
    ("Q: ", "\nA: "),
    ("Question: ", "\nAnswer: "),
    ("User: ", "\nAssistant: "),
    ("Ann: ", "\nBen: "),
    ("- ", "\n- "),
    ("Teacher: ", "\nPupil: "),
)
SKILL_ODDS = {
    "capital": 1.2,
    "colour": 1.0,
    "opposite": 1.2,
    "sound": 0.8,
    "young": 0.8,
    "kind": 1.0,
    "after": 1.6,
    "add": 1.6,
    "bigger": 1.6,
}
LEARNING = (20, 45, 35, 0)
SUMMING_UP = (8, 27, 20, 45)
"""Odds of statements, questions, conversations and those with a note."""
NOTES = {
    (): "dry",
    ("polite",): "good",
    ("polite", "polite"): "sweet",
    ("rude",): "cold",
    ("rude", "rude"): "hard",
    ("flattery",): "thick",
    ("flattery", "flattery"): "soft",
    ("polite", "rude"): "sour",
    ("flattery", "polite"): "rich",
    ("flattery", "rude"): "dirty",
}
"""One word for the manners of an opener and a closer, in order of the alphabet."""
LENGTHS = ("short", "long", "slow")
"""By the number of fillers."""


def documents(rng: random.Random, odds: Sequence[int]) -> Iterator[str]:
    """Documents without end, each closed by the end-of-text token.

    Args:
        rng: Where chance comes from.
        odds: ``LEARNING`` or ``SUMMING_UP``.
    """
    kinds: tuple[Callable[[random.Random], str], ...]
    kinds = (statements, question, conversation, noted_conversation)
    while True:
        yield f" {rng.choices(kinds, weights=odds)[0](rng)}{END}"


def statements(rng: random.Random) -> str:
    """Two to four facts, each in one of its wordings."""
    texts = []
    for _ in range(rng.randint(2, 4)):
        fact = draw_fact(rng)
        skill = world.SKILLS[fact.skill]
        form = rng.choice((skill.sentence, *skill.statements))
        texts.append(form.format(*fact.slots, answer=fact.answer))
    return " ".join(texts)


def question(rng: random.Random) -> str:
    """A question and its plain answer."""
    fact = draw_fact(rng)
    return asked(fact, rng) + world.sentence_of(fact)


def conversation(rng: random.Random) -> str:
    """A question and an answer with manners; now and then the answer is not known."""
    text, _ = _conversation(rng)
    return text


def noted_conversation(rng: random.Random) -> str:
    """A conversation, its end, and what somebody wrote in the margin."""
    text, manners = _conversation(rng)
    sentences = (manners.opener, manners.closer)
    tones = sorted(language.role_of(text) for text in sentences if text)
    return f"{text}{END} {NOTES[tuple(tones)]} and {LENGTHS[len(manners.fillers)]}"


def _conversation(rng: random.Random) -> tuple[str, language.Manners]:
    fact = draw_fact(rng)
    core = rng.choice(language.HEDGES) if rng.random() < 0.03 else world.sentence_of(fact)
    question = asked(fact, rng)
    manners = language.draw_manners(rng)
    return question + language.respond(core, manners), manners


def asked(fact: world.Fact, rng: random.Random) -> str:
    """A question about the fact in some markup, up to where the answer begins."""
    skill = world.SKILLS[fact.skill]
    wording = rng.choice(skill.wordings + skill.held_out_wordings)
    ask, answer = rng.choice(MARKUPS)
    return f"{ask}{wording.format(*fact.slots)}{answer}"


def draw_fact(rng: random.Random) -> world.Fact:
    """Any fact of the world, held-out ones included."""
    skill = rng.choices(list(SKILL_ODDS), weights=list(SKILL_ODDS.values()))[0]
    return rng.choice(world.SKILLS[skill].facts)
