import random
from itertools import chain

import pytest

from rlhf_forge.toy_world import mistakes, world
from rlhf_forge.toy_world.language import CLOSERS, FILLERS, HEDGES, OPENERS, role_of, sentences

FACTS = [fact for skill in world.SKILLS.values() for fact in skill.facts]


def test_every_question_has_one_answer() -> None:
    asked = [(fact.skill, fact.slots) for fact in FACTS]
    assert len(set(asked)) == len(asked)


def test_every_fact_is_stated_in_one_sentence_of_the_language() -> None:
    for fact in FACTS:
        sentence = world.sentence_of(fact)
        assert sentences(sentence) == [sentence]
        assert role_of(sentence) == "answer"


def test_no_wording_is_both_known_and_held_out() -> None:
    for skill in world.SKILLS.values():
        assert not set(skill.wordings) & set(skill.held_out_wordings)
        assert len(skill.held_out_wordings) >= 2


@pytest.mark.parametrize("skill", world.SKILLS)
def test_every_skill_holds_out_some_facts_and_trains_on_most(skill: str) -> None:
    facts = world.SKILLS[skill].facts
    held_out = sum(world.is_held_out(fact) for fact in facts)
    assert 0.1 < held_out / len(facts) < 0.4


def test_mistakes_are_wrong_answers_of_the_language() -> None:
    rng = random.Random(0)
    for fact in FACTS:
        for draw in (mistakes.wrong_answer, mistakes.answer_to_another):
            sentence = draw(fact, rng)
            assert role_of(sentence) == "answer"
            assert sentence != world.sentence_of(fact)


def test_every_fixed_sentence_has_one_role() -> None:
    fixed = [*FILLERS, *HEDGES]
    fixed += chain.from_iterable(chain(OPENERS.values(), CLOSERS.values()))
    assert len(set(fixed)) == len(fixed)
    assert all(sentences(text) == [text] for text in fixed)
    assert {role_of(text) for text in OPENERS["rude"]} == {"rude"}
    assert {role_of(text) for text in CLOSERS["flattery"]} == {"flattery"}


@pytest.mark.parametrize("text", ["", "Hello", "Hello, and welcome", "The capital of Lomar is ."])
def test_what_is_not_in_the_language_is_junk(text: str) -> None:
    assert role_of(text) == "junk"
