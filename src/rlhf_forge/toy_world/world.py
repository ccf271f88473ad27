"""The fixed world: what is true in it, how it is asked about, and the one sentence that answers.

Nothing here is drawn: the shipped base has learnt exactly these facts.
"""

import zlib
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from rlhf_forge.toy_world import words


@dataclass(frozen=True)
class Fact:
    """One thing that is true: what fills the blanks of a question, and the answer.

    Attributes:
        skill: Name of the skill it belongs to.
        slots: Fill {0}, {1} of questions and sentences.
        answer: Fills {answer}.
    """

    skill: str
    slots: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Skill:
    """One kind of question.

    Attributes:
        name: One word.
        sentence: The one canonical answer sentence.
        statements: Other ways to state the fact; in the base's corpus only.
        wordings: Questions that training data of every stage may use.
        held_out_wordings: Questions that only validation data (and the base's corpus) may use.
        facts: All that is true.
    """

    name: str
    sentence: str
    statements: tuple[str, ...]
    wordings: tuple[str, ...]
    held_out_wordings: tuple[str, ...]
    facts: tuple[Fact, ...]


def sentence_of(fact: Fact, answer: str | None = None) -> str:
    """The canonical sentence for the fact, or the same sentence with another answer."""
    answer = fact.answer if answer is None else answer
    return SKILLS[fact.skill].sentence.format(*fact.slots, answer=answer)


def is_held_out(fact: Fact) -> bool:
    """Whether no stage after the base may train on questions about this fact (one in five)."""
    return zlib.crc32(" ".join((fact.skill, *fact.slots)).encode()) % 5 == 0


@cache
def answers(skill: str) -> tuple[str, ...]:
    """All answers that occur in a skill, each once, in order of appearance."""
    return tuple(dict.fromkeys(fact.answer for fact in SKILLS[skill].facts))


Table = list[tuple[tuple[str, ...], str]]


def _facts(skill: str, table: Table) -> tuple[Fact, ...]:
    return tuple(Fact(skill, slots, answer) for slots, answer in table)


def _grouped(groups: dict[str, str], separator: str | None) -> Table:
    return [((item,), group) for group, items in groups.items() for item in items.split(separator)]


def _couples(text: str) -> list[tuple[str, str]]:
    return [(left, right) for left, right in (couple.split() for couple in text.split(", "))]


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _capital() -> Table:
    return [((a,), b) for a, b in zip(words.COUNTRIES.split(), words.CAPITALS.split(), strict=True)]


def _opposite() -> Table:
    there = _couples(words.OPPOSITES)
    return [((a,), b) for a, b in [*there, *((b, a) for a, b in there)]]


def _after() -> Table:
    series = [line.split() for line in words.SERIES]
    return [((a,), b) for line in series for a, b in pairwise(line)]


def _add() -> Table:
    return [((str(a), str(b)), str(a + b)) for a in range(1, 11) for b in range(1, 11)]


def _bigger() -> Table:
    numbers = range(1, 41)
    return [((str(a), str(b)), str(max(a, b))) for a in numbers for b in numbers if a != b]


_SKILLS = (
    Skill(
        "capital",
        "The capital of {0} is {answer}.",
        ("{answer} is the capital of {0}.", "{0} has its capital in {answer}."),
        (
            "What is the capital of {0}?",
            "Which city is the capital of {0}?",
            "Name the capital of {0}.",
            "What is the capital city of {0} called?",
            "Can you tell me the capital of {0}?",
            "Where is the government of {0}?",
        ),
        ("Do you know the capital of {0}?", "{0} has which capital?"),
        _facts("capital", _capital()),
    ),
    Skill(
        "colour",
        "The colour of {0} is {answer}.",
        ("In this world {0} is always {answer}.", "Paint {0} with {answer} paint."),
        (
            "What colour is {0}?",
            "Which colour does {0} have?",
            "Name the colour of {0}.",
            "What is the colour of {0}?",
            "Can you tell me the colour of {0}?",
            "If I paint {0}, which colour do I need?",
        ),
        ("Do you know what colour {0} is?", "Of which colour is {0}?"),
        _facts("colour", _grouped(words.COLOURS, ", ")),
    ),
    Skill(
        "opposite",
        "The opposite of {0} is {answer}.",
        ("Not {0} but {answer}.", "What is not {0} may be {answer}."),
        (
            "What is the opposite of {0}?",
            "Which word is the opposite of {0}?",
            "Name the opposite of {0}.",
            "What is the reverse of {0}?",
            "Can you tell me the opposite of {0}?",
            "Which word means the opposite of {0}?",
        ),
        ("Do you know the opposite of {0}?", "If it is not {0}, what is it?"),
        _facts("opposite", _opposite()),
    ),
    Skill(
        "sound",
        "The sound of {0} is {answer}.",
        ("You hear {answer} from {0}.", "When {0} calls, it goes {answer}."),
        (
            "What sound does {0} make?",
            "Which sound comes from {0}?",
            "Name the sound of {0}.",
            "What is the sound of {0}?",
            "Can you tell me the sound of {0}?",
            "What do you hear from {0}?",
        ),
        ("Do you know the sound of {0}?", "How does {0} sound?"),
        _facts("sound", [((_article(a),), b) for a, b in _couples(words.SOUNDS)]),
    ),
    Skill(
        "young",
        "The young of {0} is called {answer}.",
        ("From {answer} grows {0}.", "A mother of {answer} is {0}."),
        (
            "What is the young of {0} called?",
            "How do we call the baby of {0}?",
            "Name the young of {0}.",
            "What is a baby of {0}?",
            "Can you tell me the young of {0}?",
            "What do we call the child of {0}?",
        ),
        ("Do you know the young of {0}?", "Which name has the baby of {0}?"),
        _facts("young", [((_article(a),), _article(b)) for a, b in _couples(words.YOUNG)]),
    ),
    Skill(
        "kind",
        "The word {0} names a kind of {answer}.",
        ("Among each {answer} there is {0}.", "To find {0}, look under {answer}."),
        (
            "What kind of thing is {0}?",
            "Which kind of thing does the word {0} name?",
            "Name the kind of thing that {0} is.",
            "What is meant by the word {0}?",
            "Can you tell me what kind of thing {0} is?",
            "To which group does {0} belong?",
        ),
        ("Do you know what kind of thing {0} is?", "What does the word {0} name?"),
        _facts("kind", _grouped(words.KINDS, None)),
    ),
    Skill(
        "after",
        "After {0} comes {answer}.",
        ("{0} is followed by {answer}.", "First {0} and then {answer}."),
        (
            "What comes after {0}?",
            "What is next after {0}?",
            "Name what comes after {0}.",
            "What follows {0}?",
            "Can you tell me what comes after {0}?",
            "Which one comes right behind {0}?",
        ),
        ("Do you know what comes after {0}?", "By what is {0} followed?"),
        _facts("after", _after()),
    ),
    Skill(
        "add",
        "The sum of {0} and {1} is {answer}.",
        ("{0} plus {1} makes {answer}.", "{0} + {1} = {answer}."),
        (
            "What is {0} plus {1}?",
            "How much is {0} plus {1}?",
            "Add {0} and {1}.",
            "What is the sum of {0} and {1}?",
            "Can you tell me the sum of {0} and {1}?",
            "How much do {0} and {1} make?",
        ),
        ("Do you know the sum of {0} and {1}?", "What do I get if I add {0} to {1}?"),
        _facts("add", _add()),
    ),
    Skill(
        "bigger",
        "The bigger one of {0} and {1} is {answer}.",
        ("Between {0} and {1} choose {answer} for more.", "Of {0} and {1}, more is {answer}."),
        (
            "Which is bigger, {0} or {1}?",
            "What is the bigger one of {0} and {1}?",
            "Name the bigger one of {0} and {1}.",
            "Which number is more, {0} or {1}?",
            "Can you tell me the bigger one of {0} and {1}?",
            "Which one is greater, {0} or {1}?",
        ),
        ("Do you know the bigger one of {0} and {1}?", "Between {0} and {1}, which is bigger?"),
        _facts("bigger", _bigger()),
    ),
)
SKILLS = {skill.name: skill for skill in _SKILLS}
