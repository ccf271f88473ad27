"""The statistics, against values worked out by hand."""

import json
import math
from dataclasses import asdict
from typing import Any

import pytest

from rlhf_forge.evaluation.statistics import share_of
from rlhf_forge.serve.feedback.agreement import kappa
from rlhf_forge.serve.feedback.ranking import bradley_terry
from rlhf_forge.serve.feedback.store import Score
from rlhf_forge.serve.feedback.summary import summary
from tests.serve.feedback.casts import cast_all, comparison, side, thumb, undo


def told(*bodies: dict[str, Any], scores: tuple[Score, ...] = ()) -> dict[str, Any]:
    found = summary(cast_all(*bodies), scores)
    return dict(json.loads(json.dumps(found)))


def share(*wins: float) -> dict[str, float]:
    return asdict(share_of(wins))


def test_two_models_are_as_strong_as_the_odds_between_them() -> None:
    # 5 of 7 games and half of the drawn one beforehand: odds 5.5 to 2.5.
    games = [("x", "y", 1.0)] * 5 + [("y", "x", 1.0)] * 2
    found = bradley_terry(games)
    assert list(found) == ["x", "y"]
    assert found["x"] - found["y"] == pytest.approx(math.log(5.5 / 2.5), abs=1e-6)
    assert sum(found.values()) == pytest.approx(0, abs=1e-9)


def test_a_model_that_met_only_one_other_is_ranked_through_it() -> None:
    games = [("x", "y", 1.0)] * 30 + [("y", "x", 1.0)] * 10
    games += [("y", "z", 1.0)] * 30 + [("z", "y", 1.0)] * 10
    assert list(bradley_terry(games)) == ["x", "y", "z"]


def test_nobody_played_nobody_is_ranked_and_who_always_won_is_not_infinitely_strong() -> None:
    assert bradley_terry([]) == {}
    found = bradley_terry([("x", "y", 1.0)] * 9)
    assert found["x"] - found["y"] == pytest.approx(math.log(9.5 / 0.5), abs=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs", "value"),
    [
        ("aabb", "aabb", 1.0),
        ("aabb", "abab", 0.0),
        ("ab", "ba", -1.0),
        # 20 both yes, 5 and 10 differ, 15 both no: p 0.7, e 0.5.
        ("a" * 25 + "b" * 25, "a" * 20 + "b" * 5 + "a" * 10 + "b" * 15, 0.4),
        ("aaaa", "aaaa", None),
        ("", "", None),
    ],
)
def test_kappa_is_cohens(ours: str, theirs: str, value: float | None) -> None:
    assert kappa(ours, theirs) == (value if value is None else pytest.approx(value))


def test_models_are_told_with_their_share_of_wins_and_ranked() -> None:
    same = {"a": side("x", "sft"), "b": side("y", "sft")}
    found = told(
        comparison(0, "b"),
        comparison(1, "b"),
        comparison(2, "a"),
        comparison(3, "tie"),
        comparison(4, "both_bad"),
        comparison(5, "skip"),
        comparison(6, "a", **same),
    )
    assert [row["model"] for row in found["models"]] == ["ppo", "sft"]
    assert found["models"][0]["wins"] == share(1, 1, 0, 0.5, 0.5)
    assert (found["votes"], found["counted"], found["skipped"]) == (7, 6, 1)
    assert found["choices"] == {"a": 2, "b": 2, "tie": 1, "both_bad": 1}


def test_left_wins_are_counted_of_the_decided_votes_whose_sides_are_known() -> None:
    found = told(
        comparison(0, "a", shown_left="a"),
        comparison(1, "a", shown_left="b"),
        comparison(2, "b", shown_left="b"),
        comparison(3, "tie", shown_left="b"),
        comparison(4, "a", shown_left=None),
    )
    assert found["left_wins"] == share(1, 0, 1)


def test_longer_wins_are_counted_where_the_answers_differ_in_length() -> None:
    equal = {"a": side("one", "sft"), "b": side("two", "ppo")}
    found = told(comparison(0, "a"), comparison(1, "b"), comparison(2, "a", **equal))
    assert found["longer_wins"] == share(0, 1)


def test_a_reward_model_agrees_where_the_answer_it_scores_higher_was_chosen() -> None:
    scores = tuple(Score(f"vote-{n}", "reward", a, 0.0) for n, a in enumerate((1, -1, 0, 1)))
    found = told(*(comparison(n, c) for n, c in enumerate(("a", "a", "a", "tie"))), scores=scores)
    assert found["reward_agrees"] == {"reward": share(1, 0)}


def test_what_was_undone_or_flagged_counts_nowhere_but_cut_answers_do() -> None:
    found = told(
        comparison(0, "a"),
        undo(0, of=0),
        comparison(1, "b", seconds_to_vote=0.1),
        comparison(2, "b", b=side("cut", "ppo", finish_reason="cut_by_vote")),
        thumb(0),
        thumb(1, rating=-1),
    )
    assert found["models"][0] | {"strength": 0} == {
        "model": "ppo",
        "wins": share(1),
        "strength": 0,
    }
    assert (found["votes"], found["counted"], found["undone"]) == (2, 1, 1)
    assert found["flags"] == {"too_fast": 1, "cut_by_vote": 1}
    assert found["thumbs"] == {"up": 1, "down": 1}


def test_a_pair_judged_again_counts_for_self_consistency_only() -> None:
    found = told(
        comparison(0, "a"),
        comparison(0, "a", id="again-0", shown_left="b"),
        comparison(1, "a"),
        comparison(1, "b", id="again-1", shown_left="b"),
    )
    assert found["self_consistency"] == share(1, 0)
    assert found["counted"] == 2
    assert found["left_wins"] == share(1, 1)


def test_agreement_is_told_of_two_people_who_share_thirty_pairs() -> None:
    def by(name: str, numbers: range) -> list[dict[str, Any]]:
        flip = name == "Bob"
        return [
            comparison(n, "ab"[(n + (flip and n < 6)) % 2], id=f"{name}-{n}", annotator=name)
            for n in numbers
        ]

    found = told(*by("Ada", range(40)), *by("Bob", range(30)), *by("Cy", range(11, 40)))
    [pair] = found["agreement"]
    assert pair["annotators"] == ["Ada", "Bob"]
    assert pair["equal"] == share(*[0] * 6, *[1] * 24)
    assert pair["kappa"] == pytest.approx((0.8 - 0.5) / 0.5)
    assert told(*by("Ada", range(29)), *by("Bob", range(29)))["agreement"] == []
