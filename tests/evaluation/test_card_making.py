"""What the card says of scorers whose faults are known, and what may not change it."""

from dataclasses import replace
from typing import Any

import pytest

from rlhf_forge.data.records import Pair, assistant, user
from rlhf_forge.evaluation.card_evidence import Evidence
from rlhf_forge.evaluation.card_making import GAPS, report_card
from rlhf_forge.evaluation.card_rules import Check
from rlhf_forge.evaluation.report_card import ReportCard
from rlhf_forge.evaluation.reward_accuracy import PairScores
from tests.evaluation.evidence import (
    coin,
    evidence_of,
    gold_scorer,
    longest_first,
    true_pairs,
)

PAIRS = true_pairs()


def checks(card: ReportCard) -> dict[str, Check]:
    return {check.name: check for check in card.checks}


def verdicts(card: ReportCard) -> dict[str, str]:
    return {check.name: check.verdict for check in card.checks}


def by_hand(
    first: list[float], second: list[float], lengths: list[tuple[int, int]], **more: Any
) -> Evidence:
    """Pairs of nothing but scores and lengths."""
    pairs = [
        Pair(user(f"p{row}"), assistant(f"c{row}"), assistant(f"r{row}"), f"here:{row}", {})
        for row in range(len(first))
    ]
    plain = PairScores(first, second, [1.0] * len(first), [None] * len(first))
    return replace(Evidence(plain, lengths, [None] * len(first), pairs, {}), **more)


def rearranged(evidence: Evidence, rows: list[int]) -> Evidence:
    return Evidence(
        evidence.scores.of(rows),
        [evidence.lengths[row] for row in rows],
        [evidence.sources[row] for row in rows],
        [evidence.records[row] for row in rows],
        {name: [gains[row] for row in rows] for name, gains in evidence.gains.items()},
        evidence.unit,
    )


def swapped(evidence: Evidence) -> Evidence:
    scores = replace(evidence.scores, first=evidence.scores.second, second=evidence.scores.first)
    return replace(evidence, scores=scores, lengths=[(b, a) for a, b in evidence.lengths])


# -- scorers whose faults are known ---------------------------------------------------------------


def test_the_truth_itself_passes_every_check() -> None:
    card = report_card(evidence_of(gold_scorer, PAIRS))
    assert set(verdicts(card).values()) == {"good"}
    assert card.verdict == "good"
    assert checks(card)["accuracy"].value == 1.0
    assert card.mistakes == []


def test_a_scorer_that_counts_words_is_found_out_by_every_check_of_length() -> None:
    card = report_card(evidence_of(longest_first, PAIRS))
    found = verdicts(card)
    assert card.verdict == "bad"
    of_length = ("shorter_chosen", "longer_preferred", "score_length", "repeated", "filler")
    assert {found[name] for name in of_length} == {"bad"}
    assert found["empty"] == "good"
    assert checks(card)["shorter_chosen"].value == 0.0
    assert checks(card)["score_length"].value == pytest.approx(1.0)


def test_a_scorer_that_counts_words_is_found_out_where_people_like_length_too() -> None:
    longer = [p for p in PAIRS if len(p.chosen[0]["content"]) > len(p.rejected[0]["content"])]
    shorter = [p for p in PAIRS if len(p.chosen[0]["content"]) < len(p.rejected[0]["content"])]
    card = report_card(evidence_of(longest_first, longer[:90] + shorter[:30]))
    assert verdicts(card)["accuracy"] == "doubtful", "no better than the length rule it is"
    assert verdicts(card)["shorter_chosen"] == "bad"


def test_a_coin_has_a_bad_accuracy() -> None:
    card = report_card(evidence_of(coin, PAIRS))
    assert verdicts(card)["accuracy"] == "bad"
    assert "guessing" in checks(card)["accuracy"].reason


def test_a_scorer_that_is_right_on_too_few_pairs_is_not_vouched_for() -> None:
    card = report_card(evidence_of(gold_scorer, PAIRS[:3]))
    assert checks(card)["accuracy"].value == 1.0
    assert verdicts(card)["accuracy"] == "bad"
    assert "3 pairs do not tell it from guessing" in checks(card)["accuracy"].reason


def test_a_source_that_the_model_gets_wrong_is_named() -> None:
    turned = [replace(p, chosen=p.rejected, rejected=p.chosen) for p in PAIRS]
    mixed = [b if p.fields["kind"] == "style" else p for p, b in zip(PAIRS, turned, strict=True)]
    card = report_card(evidence_of(gold_scorer, mixed))
    assert verdicts(card)["sources"] == "bad"
    assert checks(card)["sources"].reason == "against the labels on style"
    assert card.sources["style"].value == 0.0


# -- what may change nothing ----------------------------------------------------------------------


@pytest.mark.parametrize("scorer", [gold_scorer, longest_first, coin])
def test_the_order_of_the_pairs_changes_nothing(scorer: Any) -> None:
    evidence = evidence_of(scorer, PAIRS)
    rows = list(range(len(PAIRS)))[::-1]
    before, after = report_card(evidence), report_card(rearranged(evidence, rows))
    assert replace(before, checks=[], reliability=after.reliability) == replace(after, checks=[])
    for ours, theirs in zip(before.checks, after.checks, strict=True):
        assert (ours.name, ours.verdict, ours.reason) == (
            theirs.name,
            theirs.verdict,
            theirs.reason,
        )
        assert ours.value == pytest.approx(theirs.value, abs=1e-9)
    assert before.reliability.nll == pytest.approx(after.reliability.nll)


@pytest.mark.parametrize("scorer", [gold_scorer, longest_first, coin])
def test_swapped_sides_turn_the_accuracy_round(scorer: Any) -> None:
    evidence = evidence_of(scorer, PAIRS)
    before, after = report_card(evidence), report_card(swapped(evidence))
    assert checks(after)["accuracy"].value == pytest.approx(1 - checks(before)["accuracy"].value)
    assert after.margin.value == pytest.approx(-before.margin.value)
    assert after.longer_wins == pytest.approx(1 - before.longer_wins)
    assert after.majority == pytest.approx(before.majority)
    assert checks(after)["score_length"].value == checks(before)["score_length"].value


def test_another_zero_of_the_scores_changes_no_verdict() -> None:
    evidence = evidence_of(coin, PAIRS)
    scores = evidence.scores
    moved = replace(
        scores, first=[s + 8 for s in scores.first], second=[s + 8 for s in scores.second]
    )
    assert verdicts(report_card(replace(evidence, scores=moved))) == verdicts(report_card(evidence))


def test_scores_in_another_unit_are_as_calibrated_as_before() -> None:
    evidence = evidence_of(coin, PAIRS)
    scores = evidence.scores
    half = replace(
        scores, first=[s / 2 for s in scores.first], second=[s / 2 for s in scores.second]
    )
    scaled = replace(evidence, scores=half, unit=2.0)
    assert report_card(scaled).reliability.temperature == pytest.approx(
        report_card(evidence).reliability.temperature
    )


# -- by hand --------------------------------------------------------------------------------------


def test_lengths_and_labels_are_counted_as_by_hand() -> None:
    evidence = by_hand(
        [2.0, 0.0, 1.0, 3.0], [1.0, 1.0, 1.0, 0.0], [(3, 9), (8, 2), (4, 4), (10, 9)]
    )
    card = report_card(evidence)
    found = checks(card)
    assert found["accuracy"].value == (1 + 0 + 0.5 + 1) / 4
    assert (found["shorter_chosen"].value, found["shorter_chosen"].n) == (1.0, 1)
    assert (found["longer_chosen"].value, found["longer_chosen"].n) == (0.5, 2)
    assert card.longer_wins == (0 + 1 + 0.5 + 1) / 4
    # By label the longer answer wins 2 of 3, by score 1 of 3.
    assert found["longer_preferred"].value == pytest.approx(-1 / 3)
    assert [share.n for share in card.length_gaps.values()] == [1, 0, 1, 1, 1]
    assert list(card.length_gaps) == list(GAPS)
    assert card.margin.value == (1 - 1 + 0 + 3) / 4
    assert card.margin_median == 0.5


def test_the_histogram_counts_every_answer_once() -> None:
    found = report_card(by_hand([0.0, 1.2], [0.6, 1.2], [(1, 1)] * 2)).histogram
    assert (sum(found.chosen), sum(found.rejected)) == (2, 2)
    assert found.edges[0] == 0.0
    assert found.edges[-1] == pytest.approx(1.2)
    assert (found.chosen[0], found.chosen[-1], found.rejected[-1]) == (1, 1, 1)


def test_scores_that_are_all_equal_have_a_histogram_too() -> None:
    assert sum(report_card(by_hand([1.0], [1.0], [(1, 1)])).histogram.chosen) == 1


def test_the_most_confident_mistakes_are_told_as_text_the_surest_first() -> None:
    first, second = [0.0, 5.0, 0.0, 0.0], [1.0, 0.0, 3.0, 0.0]
    card = report_card(by_hand(first, second, [(1, 1)] * 4))
    assert [(m.margin, m.origin) for m in card.mistakes] == [(-3.0, "here:2"), (-1.0, "here:0")]
    assert (card.mistakes[0].prompt, card.mistakes[0].chosen) == ("p2", "c2")


def test_labels_that_are_shares_count_as_shares() -> None:
    evidence = by_hand([1.0, 0.0], [0.0, 1.0], [(2, 1), (2, 1)])
    evidence = replace(evidence, scores=replace(evidence.scores, preferred=[0.8, 0.6]))
    card = report_card(evidence)
    assert checks(card)["accuracy"].value == pytest.approx((0.8 + 0.4) / 2)
    assert card.longer_wins == pytest.approx(0.7)


def test_a_probe_is_the_share_of_demonstrations_above_it_and_its_gain() -> None:
    gains = {"empty": [-1.0, 0.0, 2.0, -1.0], "filler": []}
    card = report_card(by_hand([1.0], [0.0], [(1, 1)], gains=gains))
    assert card.probes["empty"].below.value == 2.5 / 4
    assert card.probes["empty"].gain.value == 0.0
    assert (verdicts(card)["empty"], verdicts(card)["filler"]) == ("bad", "doubtful")


def test_no_pairs_make_a_card_that_is_bad() -> None:
    card = report_card(by_hand([], [], []))
    assert (card.n, card.verdict) == (0, "bad")
    assert "nothing is known" in checks(card)["accuracy"].reason
