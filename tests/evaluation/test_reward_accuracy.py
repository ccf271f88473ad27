from typing import Any

import pytest
import torch

from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.records import Pair, assistant, user
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.evaluation.reward_accuracy import PairScores, by_kind, score_pairs
from tests import tiny


def pair(length: int, *, seed: int, **fields: Any) -> PairExample:
    record = Pair(user("a"), assistant("b"), assistant("c"), "here", fields)
    chosen, rejected = (tiny.rows(n, seed=seed)[0].tolist() for n in (length, length + 2))
    return PairExample(
        chosen,
        rejected,
        [False] * 3 + [True] * (length - 3),
        [False] * 3 + [True] * (length - 1),
        record,
    )


def test_accuracy_is_the_share_of_pairs_where_the_preferred_answer_scores_higher() -> None:
    found = PairScores([2.0, 0.0, 1.0, 5.0], [1.0, 3.0, 1.0, 4.0], [1.0] * 4, [None] * 4).accuracy()
    assert (found["accuracy"], found["n"], found["ceiling"]) == (2.5 / 4, 4, None)
    assert found["low"] == pytest.approx(0.2194, abs=1e-4)
    assert found["high"] == pytest.approx(0.9081, abs=1e-4)


def test_the_ceiling_is_how_often_the_labels_side_with_the_truth() -> None:
    assert PairScores([1.0], [0.0], [1.0], [0.9]).accuracy()["ceiling"] == 0.9
    assert PairScores([1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.5, 1.0]).accuracy()["ceiling"] == 0.75


def test_pairs_are_scored_as_each_answer_by_itself_in_their_order() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    pairs = [pair(6, seed=1), pair(12, seed=2), pair(9, seed=3)]
    found = score_pairs(backbone, "reward", pairs)
    for number, example in enumerate(pairs):
        for side, scores in (("chosen", found.first), ("rejected", found.second)):
            tokens = torch.tensor([getattr(example, side)])
            mask = torch.tensor([getattr(example, f"{side}_response")])
            with torch.no_grad():
                alone = score(backbone, tokens, mask).item()
            assert scores[number] == pytest.approx(alone, abs=1e-4)


def test_a_ceiling_needs_the_agreement_of_every_pair() -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    known, unknown = pair(6, seed=1, agreement=0.8), pair(6, seed=2)
    assert score_pairs(backbone, "reward", [known, known]).accuracy()["ceiling"] == 0.8
    assert score_pairs(backbone, "reward", [known, unknown]).accuracy()["ceiling"] is None


def test_pairs_stand_under_their_kind_and_those_without_one_nowhere() -> None:
    facts, style, plain = (
        pair(6, seed=1, kind="facts"),
        pair(6, seed=2, kind="style"),
        pair(6, seed=3),
    )
    assert by_kind([facts, style, plain, facts]) == {"facts": [0, 3], "style": [1]}


def test_scores_of_some_pairs_are_those_pairs_alone() -> None:
    scores = PairScores([2.0, 0.0, 5.0], [1.0, 3.0, 4.0], [1.0, 0.5, 0.2], [0.9, None, 0.7])
    assert scores.of([2, 0]) == PairScores([5.0, 2.0], [4.0, 1.0], [0.2, 1.0], [0.7, 0.9])


def test_of_several_labels_a_pair_those_count_that_the_model_sides_with() -> None:
    pairs = [PairScores([score], [1.0], [0.8], [None]) for score in (2.0, 0.0, 1.0)]
    assert [pair.accuracy()["accuracy"] for pair in pairs] == [0.8, pytest.approx(0.2), 0.5]


@pytest.mark.parametrize("told", [3, -0.1, "high", True, None, float("nan")])
def test_a_column_that_is_only_called_agreement_gives_no_ceiling(told: object) -> None:
    backbone = tiny.four_roles(tiny.open_tiny())
    found = score_pairs(backbone, "reward", [pair(6, seed=1, agreement=told)])
    assert found.accuracy()["ceiling"] is None
