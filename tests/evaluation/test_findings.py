"""What readings tell, and when nothing is said."""

from dataclasses import replace

import pytest
import torch

from rlhf_forge.evaluation.findings import FALL_SE, LEAST_FALL, findings_in
from rlhf_forge.evaluation.readings import Reading

PROMPTS = 100


def draws(seed: int, mean: float, std: float = 1.0) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(PROMPTS, generator=generator, dtype=torch.float64)
    numbers: list[float] = (mean + std * (noise - noise.mean()) / noise.std()).tolist()
    return numbers


def reading(iteration: int, *, score: float, judge: float | None, kl: float = 0.0) -> Reading:
    """With paired scores: a policy's better or worse answers are so for the same prompts."""
    return Reading(
        iteration=iteration,
        scores=draws(1, score),
        lengths=[20] * PROMPTS,
        kl=kl,
        eos=1.0,
        repetition=0.0,
        distinct=0.5,
        judged=[] if judge is None else draws(2, judge),
    )


def kinds(*readings: Reading) -> list[str]:
    return [finding.kind for finding in findings_in(readings)]


START = reading(0, score=0.0, judge=0.0)
PEAK = reading(2, score=0.5, judge=0.5, kl=1.5)


def test_a_single_reading_tells_nothing() -> None:
    assert kinds(START) == []


def test_a_judge_that_rises_with_the_reward_is_no_news() -> None:
    assert kinds(START, PEAK, reading(4, score=0.9, judge=0.8, kl=3.0)) == []


def test_a_judge_that_falls_while_the_reward_rises_is_told_with_both_and_since_when() -> None:
    [found] = findings_in([START, PEAK, reading(4, score=0.9, judge=0.05, kl=6.0)])
    assert found.text == (
        "the judge's score has fallen by 0.45 (± 0.00) since iteration 2, while the reward's rose "
        "by 0.40: the policy has gained with the reward and lost with the judge; KL went from 1.5 "
        "to 6.0 nats"
    )
    assert (found.kind, found.severity) == ("judge-fell", 4)


def test_a_judge_that_falls_with_the_reward_is_told_otherwise() -> None:
    [found] = findings_in([START, PEAK, reading(4, score=0.2, judge=0.1, kl=6.0)])
    assert "and the reward's by 0.30: the policy has lost with both" in found.text


def test_a_judge_that_rises_no_more_while_the_reward_does_is_told_at_the_second_reading() -> None:
    later = reading(4, score=0.7, judge=0.49, kl=3.0)
    last = reading(6, score=0.9, judge=0.48, kl=4.0)
    assert kinds(START, PEAK, later) == []
    [found] = findings_in([START, PEAK, later, last])
    assert (found.kind, found.severity) == ("judge-stalled", 1)
    assert found.text == (
        "the reward has risen by 0.40 (± 0.00) since iteration 2, and in none of the 2 readings "
        "since has the judge's score: what the policy gains, only the reward sees; KL went from "
        "1.5 to 4.0 nats"
    )


def test_a_run_in_which_nothing_rises_any_more_is_no_news() -> None:
    flat = [replace(PEAK, iteration=at) for at in (4, 6, 8)]
    assert kinds(START, PEAK, *flat) == []


def test_a_rise_of_the_reward_within_its_noise_is_none() -> None:
    noisy = [replace(PEAK, iteration=at, scores=draws(5, 0.6)) for at in (4, 6)]
    assert kinds(START, PEAK, *noisy) == []


def test_a_fall_below_the_start_counts_though_there_was_no_rise() -> None:
    assert kinds(START, reading(2, score=0.4, judge=-0.3)) == ["judge-fell"]


def test_a_small_fall_is_not_told() -> None:
    at, just = 0.5 - LEAST_FALL, 0.001
    assert kinds(START, PEAK, reading(4, score=0.9, judge=at + just)) == []
    assert kinds(START, PEAK, reading(4, score=0.9, judge=at - just)) == ["judge-fell"]


def test_a_fall_within_the_noise_of_the_prompts_is_not_told() -> None:
    # Other prompts got worse than those that were good: the difference has a standard error.
    noisy = replace(PEAK, iteration=4, judged=draws(3, 0.3))
    se = torch.tensor(noisy.judged).sub(torch.tensor(PEAK.judged)).std().item() / PROMPTS**0.5
    fall = 0.2
    assert LEAST_FALL < fall < FALL_SE * se
    assert kinds(START, PEAK, noisy) == []
    assert kinds(START, PEAK, replace(noisy, judged=draws(3, 0.5 - FALL_SE * se - 0.01)))


def test_the_unit_of_the_judge_changes_nothing() -> None:
    readings = [START, PEAK, reading(4, score=0.9, judge=0.1)]
    tenfold = [replace(r, judged=[10 * score for score in r.judged]) for r in readings]
    assert [f.severity for f in findings_in(tenfold)] == [f.severity for f in findings_in(readings)]


def test_a_policy_beyond_the_fitted_peak_is_told_with_the_interval() -> None:
    def gain(kl: float) -> float:
        d = torch.tensor(kl).sqrt().item()
        return 0.0 if d == 0 else d * (1.0 - 0.8 * torch.tensor(d).log().item())

    readings = [
        reading(at, score=at / 10, judge=gain(kl), kl=kl)
        for at, kl in enumerate([0.0, 0.5, 1.0, 2.0, 3.0, 1.9])
    ]
    assert "beyond-peak" in kinds(*readings[:5])
    assert "beyond-peak" in kinds(*readings[:4])
    assert "beyond-peak" not in kinds(*readings[:3])  # two points give no curve
    text = next(f.text for f in findings_in(readings[:5]) if f.kind == "beyond-peak")
    assert "has its peak at a KL of 1.6 nats (95 % interval 1.6 to 1.6)" in text


def test_a_rise_that_goes_with_length_is_told() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randint(10, 30, (PROMPTS,), generator=generator)
    after = before + 20

    def of_length(lengths: torch.Tensor, iteration: int, more: float) -> Reading:
        base = reading(iteration, score=0.0, judge=None)
        scores = (0.1 * lengths.double() + more).tolist()
        return replace(base, lengths=lengths.tolist(), scores=scores)

    long = findings_in([of_length(before, 0, 0.0), of_length(after, 2, 0.0)])
    assert [found.kind for found in long] == ["length"]
    assert "risen by 2.00 since the start, and by 0.00 at equal length" in long[0].text
    assert kinds(of_length(before, 0, 0.0), of_length(after, 2, 3.0)) == []
    assert kinds(of_length(before, 0, 0.0), of_length(before, 2, 3.0)) == []


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"repetition": 0.11}, "repetition"),
        ({"distinct": 0.24}, "sameness"),
        ({"eos": 0.89}, "endless"),
    ],
)
def test_texts_that_repeat_are_alike_or_never_end_are_told(
    changed: dict[str, float], kind: str
) -> None:
    later = replace(reading(2, score=0.0, judge=None), **changed)  # type: ignore[arg-type]
    assert kinds(reading(0, score=0.0, judge=None), later) == [kind]
    assert kinds(later, later) == []
