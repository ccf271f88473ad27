from typing import Any

import pytest

from rlhf_forge.reward_terms import RewardTerm, artefact_in, filled_in, names_function, terms_of

MIX: list[dict[str, Any]] = [
    {"source": "mine:score", "weight": 0.5},
    {"source": None, "weight": 1.0},
]


def test_a_source_with_a_colon_is_a_function() -> None:
    assert names_function("mine.rewards:score")
    assert not names_function("lightning_logs/x/reward/artefact")
    assert not names_function(None)


def test_none_and_a_single_source_are_one_term_of_weight_one() -> None:
    assert terms_of(None) == (RewardTerm(None, 1.0),)
    assert terms_of("mine:score") == (RewardTerm("mine:score", 1.0),)
    assert terms_of([RewardTerm("a"), RewardTerm("b:c", -2.0)])[1].weight == -2.0


@pytest.mark.parametrize(
    ("reward", "artefact"),
    [
        (None, None),
        ("mine:score", None),
        ("there/artefact", "there/artefact"),
        (MIX, None),
        ([*MIX, {"source": "there", "weight": 1.0}], "there"),
    ],
)
def test_the_artefact_among_the_sources_is_found(reward: Any, artefact: str | None) -> None:
    assert artefact_in(reward) == artefact


def test_only_where_no_source_is_named_the_runs_own_is_filled_in() -> None:
    assert filled_in(None, "own") == "own"
    assert filled_in("mine:score", "own") == "mine:score"
    mix = [dict(term) for term in MIX]
    assert [term["source"] for term in filled_in(mix, "own")] == ["mine:score", "own"]
