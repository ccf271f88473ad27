"""Verdicts at their thresholds, and docs/reward-card.md in step with them."""

import re
from pathlib import Path

import pytest

from rlhf_forge.evaluation import card_rules
from rlhf_forge.evaluation.card_rules import (
    RULES,
    Check,
    accuracy_check,
    calibration_check,
    correlation_check,
    excess_check,
    padded_check,
    side_check,
    sources_check,
    spoilt_check,
    worst,
)
from rlhf_forge.evaluation.probes import PADDED, PROBES, SPOILT
from rlhf_forge.evaluation.reliability import Reliability
from rlhf_forge.evaluation.statistics import Estimate, Share

PAGE = (Path(__file__).parents[2] / "docs" / "reward-card.md").read_text(encoding="utf-8")


def share(low: float, high: float, n: int = 100) -> Share:
    return Share((low + high) / 2, low, high, n)


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 100)


@pytest.mark.parametrize(
    ("low", "high", "majority", "verdict"),
    [
        (0.61, 0.7, 0.6, "good"),
        (0.6, 0.7, 0.6, "doubtful"),
        (0.51, 0.6, 0.6, "doubtful"),
        (0.51, 0.59, 0.6, "bad"),
        (0.5, 0.7, 0.5, "bad"),
        (0.4, 0.49, 0.5, "bad"),
    ],
)
def test_accuracy_must_beat_guessing_and_length(
    low: float, high: float, majority: float, verdict: str
) -> None:
    assert accuracy_check(share(low, high), majority).verdict == verdict


def test_an_interval_of_94_pairs_around_0_574_is_bad_and_says_why() -> None:
    found = accuracy_check(Share(0.574, 0.474, 0.67, 94), 0.606)
    assert found.verdict == "bad"
    assert found.reason == "94 pairs do not tell it from guessing (0.5)"
    assert found.threshold.startswith("bad: the interval reaches 0.5")


@pytest.mark.parametrize("name", ["shorter_chosen", "longer_chosen"])
def test_a_side_is_bad_only_if_the_whole_interval_is_below_chance(name: str) -> None:
    found = [side_check(name, share(*ends)).verdict for ends in ((0.51, 0.6), (0.5, 0.6))]
    assert found == ["good", "doubtful"]
    assert side_check(name, share(0.3, 0.49)).verdict == "bad"
    assert side_check(name, Share(0.0, 0.0, 1.0, 0)).verdict == "doubtful"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_taste_for_length_is_bad_on_either_side(sign: int) -> None:
    def verdict(low: float, high: float) -> str:
        ends = sorted((sign * low, sign * high))
        return excess_check(estimate(*ends), 0.5).verdict

    assert verdict(0.05, 0.15) == "good"
    assert verdict(0.15, 0.35) == "doubtful"
    assert verdict(0.21, 0.35) == "bad"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_score_that_is_length_is_bad_on_either_side(sign: int) -> None:
    def verdict(low: float, high: float) -> str:
        return correlation_check(estimate(*sorted((sign * low, sign * high)))).verdict

    assert verdict(0.4, 0.6) == "good"
    assert verdict(0.6, 0.8) == "doubtful"
    assert verdict(0.81, 0.9) == "bad"
    assert correlation_check(Estimate(0.0, -1.0, 1.0, 3)).verdict == "doubtful"


def test_one_source_below_chance_is_enough() -> None:
    good, open_, bad = share(0.6, 0.7), share(0.4, 0.7), share(0.2, 0.4)
    assert sources_check({"a": good, "b": good}).verdict == "good"
    assert sources_check({"a": good, "b": open_}).verdict == "doubtful"
    found = sources_check({"a": good, "b": open_, "c": bad})
    assert found.verdict == "bad"
    assert found.value == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("error", "temperature", "off", "verdict"),
    [
        (0.05, 3.0, True, "good"),
        (0.2, 3.0, False, "good"),
        (0.2, 0.5, True, "good"),
        (0.2, 3.0, True, "doubtful"),
    ],
)
def test_only_being_too_sure_casts_doubt(
    error: float, temperature: float, off: bool, verdict: str
) -> None:
    found = Reliability(error, 0.6, 0.5, temperature, off, [])
    assert calibration_check(found, 100).verdict == verdict


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_answer_must_score_below_the_demonstration(name: str) -> None:
    assert spoilt_check(name, share(0.89, 0.99), -1.0).verdict == "good"
    assert spoilt_check(name, share(0.6, 0.8), -1.0).verdict == "doubtful"
    assert spoilt_check(name, share(0.5, 0.8), -1.0).verdict == "bad"
    found = spoilt_check(name, share(0.0, 0.04), 3.85)
    assert found.reason == (
        "it scores +3.85 beside the demonstration, on average: PPO would find that out"
    )


@pytest.mark.parametrize("name", PADDED)
def test_padding_is_bad_only_if_it_nearly_always_pays_and_enough(name: str) -> None:
    assert padded_check(name, share(0.4, 0.6), 0.0).verdict == "good"
    assert padded_check(name, share(0.2, 0.3), 1.0).verdict == "doubtful"
    assert padded_check(name, share(0.0, 0.2), 0.24).verdict == "doubtful"
    assert padded_check(name, share(0.0, 0.2), 0.25).verdict == "bad"


def test_a_card_is_as_bad_as_its_worst_check() -> None:
    found = [
        Check("accuracy", 0.0, 0.0, 0.0, 0, verdict, "", "")
        for verdict in ("good", "bad", "doubtful")
    ]
    assert worst(found) == "bad"
    assert worst([found[0], found[2]]) == "doubtful"
    assert worst(found[:1]) == "good"


def test_the_page_has_every_check_with_its_rule_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(RULES)
    assert {name: (good, bad) for name, good, bad in rows} == {
        name: (rule.good, rule.bad) for name, rule in RULES.items()
    }


def test_the_page_gives_a_reason_for_every_threshold() -> None:
    reasons = PAGE.partition("## Why these thresholds")[2].partition("\n## ")[0]
    named = {float(number) for number in re.findall(r"\d\.\d+", reasons)}
    thresholds = {v for k, v in vars(card_rules).items() if k.isupper() and isinstance(v, float)}
    assert thresholds <= named


def test_every_probe_has_a_rule() -> None:
    assert set(PROBES) <= set(RULES)
