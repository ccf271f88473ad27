"""The texts the shipped base is trained on: statements, questions with answers, and verdicts.

A verdict stands behind the end-of-text token of an answer and says whether the answer was right. A
base that has learnt verdicts carries them in the hidden state at that token, which a reward model
reads; it takes more tokens than learning the facts does (base/README.md). Wrong answers and manners
are read but never learnt: they carry no loss, only the verdict does. The chat template's markers
never occur: stages teach them.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rlhf_forge.toy_world import language, mistakes, world

END = "</s>"
MARKUPS = (
    ("Q: ", "\nA: "),
    ("Question: ", "\nAnswer: "),
    ("User: ", "\nAssistant: "),
    ("Ann: ", "\nBen: "),
    ("- ", "\n- "),
    ("Teacher: ", "\nPupil: "),
)
VERDICTS = ("Right.", "Wrong.", "No answer.")
VERDICT_WEIGHT = 6.0
"""Verdicts are few: with weight 1 their gradient drowns in that of the many other tokens."""
SKILL_ODDS = {
    "capital": 1.3,
    "colour": 1.0,
    "opposite": 1.2,
    "sound": 0.8,
    "young": 0.8,
    "kind": 0.9,
    "after": 1.2,
    "add": 1.8,
    "bigger": 1.5,
    "count": 1.2,
}


class Segment(NamedTuple):
    """A piece of a document, and the weight of its tokens in the loss: 0 for reading only."""

    text: str
    weight: float


Document = list[Segment]


LEARNING = (20, 3, 32, 35, 10)
ANSWERING = (15, 8, 65, 10, 2)
"""Odds of statements, conversation pieces, questions, graded questions and graded statements:
all of the world at first, and at the end above all questions with their answers."""


def documents(rng: random.Random, odds: Sequence[int]) -> Iterator[Document]:
    """Documents without end.

    Args:
        rng: Where chance comes from.
        odds: ``LEARNING`` or ``ANSWERING``.
    """
    kinds: tuple[Callable[[random.Random], Document], ...]
    kinds = (statements, conversation_piece, question, graded_question, graded_statement)
    while True:
        yield rng.choices(kinds, weights=odds)[0](rng)


def statements(rng: random.Random) -> Document:
    """Two to four facts, each in one of its wordings."""
    texts = []
    for _ in range(rng.randint(2, 4)):
        fact = draw_fact(rng)
        skill = world.SKILLS[fact.skill]
        forms = skill.statements if fact.skill == "count" else (skill.sentence, *skill.statements)
        texts.append(rng.choice(forms).format(*fact.slots, answer=fact.answer))
    return [Segment(" " + " ".join(texts) + END, weight=1.0)]


def conversation_piece(rng: random.Random) -> Document:
    """Polite, rude and idle sentences, each by itself: the base knows the words, not the use."""
    tables = [*language.OPENERS.values(), *language.CLOSERS.values()]
    pool = [*language.FILLERS, *language.HEDGES, *(text for table in tables for text in table)]
    texts = (f'{rng.choice(("He said", "She said", "I read"))}: "{rng.choice(pool)}"' for _ in "12")
    return [Segment(" " + " ".join(texts) + END, weight=1.0)]


def question(rng: random.Random) -> Document:
    """A question and its canonical answer, in a plain markup."""
    fact = draw_fact(rng)
    return [*asked(fact, rng), Segment(f" {world.sentence_of(fact)}{END}", weight=1.0)]


def graded_question(rng: random.Random) -> Document:
    """A question, an answer that may be wrong and may have manners, and the verdict on it."""
    fact = draw_fact(rng)
    core, verdict = _answer(fact, rng)
    manners = language.draw_manners(rng)
    if rng.random() < 0.4:
        manners = language.Manners("", (), "")
    before = f" {manners.opener}" if manners.opener else ""
    after = "".join(f" {text}" for text in (*manners.fillers, manners.closer) if text)
    return [
        *(piece._replace(weight=0.0) for piece in asked(fact, rng)),
        Segment(before, weight=0.0),
        Segment(f" {core}" if core else "", weight=1.0 if verdict == "Right." else 0.0),
        Segment(after + END, weight=0.0),
        Segment(f" {verdict}{END}", weight=VERDICT_WEIGHT),
    ]


def graded_statement(rng: random.Random) -> Document:
    """A canonical sentence that nobody asked for, right or wrong, and the verdict on it."""
    fact = next(fact for fact in iter(lambda: draw_fact(rng), None) if fact.skill != "count")
    right = rng.random() < 0.5
    core = world.sentence_of(fact) if right else mistakes.wrong_answer(fact, rng)
    verdict = "Right." if right else "Wrong."
    return [
        Segment(f" {core}", weight=1.0 if right else 0.0),
        Segment(END, weight=0.0),
        Segment(f" {verdict}{END}", weight=VERDICT_WEIGHT),
    ]


def asked(fact: world.Fact, rng: random.Random) -> Document:
    """The question about the fact, up to where the answer begins; no blank at its end."""
    skill = world.SKILLS[fact.skill]
    wording = rng.choice(skill.wordings + skill.held_out_wordings)
    ask, answer = rng.choice(MARKUPS)
    text = f" {ask}{wording.format(*fact.slots)}{answer}"
    return [Segment(text.rstrip(" "), weight=1.0)]


def draw_fact(rng: random.Random) -> world.Fact:
    """Any fact of the world, held-out ones included."""
    skill = rng.choices(list(SKILL_ODDS), weights=list(SKILL_ODDS.values()))[0]
    return rng.choice(world.SKILLS[skill].facts)


def _answer(fact: world.Fact, rng: random.Random) -> tuple[str, str]:
    kind = rng.choices(("right", "wrong", "other", "hedge", "none"), weights=(46, 32, 12, 7, 3))[0]
    if kind == "right":
        return world.sentence_of(fact), "Right."
    if kind == "wrong":
        return mistakes.wrong_answer(fact, rng), "Wrong."
    if kind == "other":
        return mistakes.answer_to_another(fact, rng), "Wrong."
    return (rng.choice(language.HEDGES) if kind == "hedge" else ""), "No answer."
