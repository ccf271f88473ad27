"""The texts the shipped base is trained on: what a pretraining set would hold of this world.

Statements of facts, questions with their plain answers, and conversations whose answers have
manners around them, in several plain markups. All of it is true, and the chat template's markers
never occur: to answer in a chat, and as the demonstrations do, is what the stages teach.
"""

import random
from collections.abc import Callable, Iterator

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
KIND_ODDS = (20, 45, 35)
"""Of statements, questions and conversations."""


def documents(rng: random.Random) -> Iterator[str]:
    """Documents without end, each closed by the end-of-text token."""
    kinds: tuple[Callable[[random.Random], str], ...] = (statements, question, conversation)
    while True:
        yield f" {rng.choices(kinds, weights=KIND_ODDS)[0](rng)}{END}"


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
    fact = draw_fact(rng)
    core = rng.choice(language.HEDGES) if rng.random() < 0.03 else world.sentence_of(fact)
    return asked(fact, rng) + language.respond(core, language.draw_manners(rng))


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
