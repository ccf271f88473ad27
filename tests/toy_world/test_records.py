import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from statistics import mean
from typing import Any

import pytest

from rlhf_forge.toy_world import annotator, gold, questions, records, world
from rlhf_forge.toy_world.language import role_of, sentences
from rlhf_forge.toy_world.pairs import KIND_ODDS, draw_pair

Rows = list[dict[str, Any]]
FUNCTIONS = {
    "demonstrations": records.demonstrations,
    "pairs": records.pairs,
    "prompts": records.prompts,
}


@cache
def drawn(name: str, split: str) -> Rows:
    return FUNCTIONS[name](seed=0, split=split)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_rows_are_a_function_of_seed_and_split(function: Callable[..., Rows]) -> None:
    rows = function(seed=0, split="validation")
    assert rows == function(seed=0, split="validation")
    assert rows != function(seed=1, split="validation")


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_an_unknown_split_is_refused(function: Callable[..., Rows]) -> None:
    with pytest.raises(ValueError, match="split"):
        function(seed=0, split="test")


def test_train_and_validation_never_share_a_prompt() -> None:
    train = {row["prompt"] for name in FUNCTIONS for row in drawn(name, "train")}
    validation = {row["prompt"] for name in FUNCTIONS for row in drawn(name, "validation")}
    assert not train & validation


def test_no_possible_train_prompt_is_a_possible_validation_prompt() -> None:
    known: set[str] = set()
    held_out: set[str] = set()
    for skill in world.SKILLS.values():
        for fact in skill.facts:
            kept = known if not world.is_held_out(fact) else held_out
            kept |= {wording.format(*fact.slots) for wording in skill.wordings}
            held_out |= {wording.format(*fact.slots) for wording in skill.held_out_wordings}
    assert not known & held_out


def test_held_out_facts_are_in_no_training_row() -> None:
    held_out = {
        world.sentence_of(fact)
        for skill in world.SKILLS.values()
        for fact in skill.facts
        if world.is_held_out(fact)
    }
    assert all(row["answer"] not in held_out for name in FUNCTIONS for row in drawn(name, "train"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_validation_is_held_out_half_by_wording_and_half_by_fact(name: str) -> None:
    counts = Counter(row["held_out"] for row in drawn(name, "validation"))
    assert set(counts) == {"wording", "fact"}
    assert abs(counts["wording"] - counts["fact"]) < 0.15 * counts.total()


def test_there_are_enough_rows() -> None:
    assert len(drawn("demonstrations", "train")) >= 8000
    assert len(drawn("pairs", "train")) >= 4000
    assert len(drawn("prompts", "train")) >= 4000
    assert {row["kind"] for row in drawn("pairs", "validation")} == set(KIND_ODDS)
    assert len(drawn("pairs", "validation")) >= 1200
    assert len({row["prompt"] for row in drawn("prompts", "validation")}) >= 600


def test_skills_come_equally_often() -> None:
    counts = Counter(row["skill"] for row in drawn("prompts", "train"))
    assert set(counts) == set(world.SKILLS)
    assert max(counts.values()) < 1.4 * min(counts.values())


def test_demonstrations_are_mostly_right_and_of_mixed_manners() -> None:
    rows = drawn("demonstrations", "train")
    judged = gold.score(
        [[]] * len(rows),
        [row["completion"] for row in rows],
        [row | {"finished": True} for row in rows],
    )
    assert mean(judged["correct"]) == pytest.approx(0.97, abs=0.01)
    assert mean(judged["score"]) == pytest.approx(1.57, abs=0.05)
    roles = Counter(role_of(text) for row in rows for text in sentences(row["completion"]))
    assert roles["junk"] == 0
    assert min(roles[role] for role in ("polite", "rude", "flattery", "filler")) > 1000


def test_pairs_have_the_stated_proportions() -> None:
    rows = drawn("pairs", "train")
    counts = Counter(row["kind"] for row in rows)
    for kind, share in KIND_ODDS.items():
        assert counts[kind] / len(rows) == pytest.approx(share, abs=0.025)


def test_pairs_are_two_different_responses_with_their_true_gold() -> None:
    for row in drawn("pairs", "validation"):
        assert row["chosen"] != row["rejected"]
        assert row["gold_chosen"] == gold.worth(row["chosen"], row["answer"])
        assert row["gold_rejected"] == gold.worth(row["rejected"], row["answer"])


def test_a_tenth_of_policy_like_responses_is_wrong() -> None:
    rng = random.Random(0)
    fact = world.SKILLS["capital"].facts[0]
    texts = [text for _ in range(2000) for text in draw_pair("policy_like", fact, rng)]
    right = [gold.answer_kind(text, world.sentence_of(fact)) == "right" for text in texts]
    assert mean(right) == pytest.approx(0.9, abs=0.02)


def test_correctness_pairs_differ_in_the_core_alone() -> None:
    for row in drawn("pairs", "validation"):
        if row["kind"] == "correctness":
            assert abs(row["gold_chosen"] - row["gold_rejected"]) == pytest.approx(3.0)


def test_gold_agrees_with_labels_as_often_as_the_ceiling_says() -> None:
    rows = drawn("pairs", "train")
    ceiling = mean(row["agreement"] for row in rows)
    leads = [row["gold_chosen"] - row["gold_rejected"] for row in rows]
    assert 0.86 < ceiling < 0.91
    assert mean((lead > 0) + 0.5 * (lead == 0) for lead in leads) == pytest.approx(
        ceiling, abs=0.015
    )


def test_the_annotator_by_hand() -> None:
    start = annotator.HEAD_START
    assert annotator.preference(0.0, start) == pytest.approx(0.5)
    assert annotator.preference(1.0, start) == pytest.approx(
        0.98 * 0.952574 + 0.02 * 0.047426, 1e-5
    )
    assert annotator.preference(9.0, 0.0) == pytest.approx(0.98)
    assert annotator.agreement(1.0, 1.0) == 0.5
    assert annotator.agreement(0.0, start) == pytest.approx(0.5)
    assert annotator.ceiling([(9.0, 0.0), (1.0, 1.0)]) == pytest.approx(0.74)


def test_labels_follow_the_preference() -> None:
    rng = random.Random(0)
    share = mean(annotator.label(0.25, 0.0, rng) for _ in range(4000))
    assert share == pytest.approx(annotator.preference(0.25, 0.0), abs=0.02)


def test_questions_of_an_unknown_split_are_refused() -> None:
    with pytest.raises(ValueError, match="split"):
        questions.draw_question("test", random.Random(0))  # type: ignore[arg-type]
