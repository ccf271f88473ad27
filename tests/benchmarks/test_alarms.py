"""benchmarks/alarms.py: what an alarm is said to have done in a run, by runs made by hand."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.evaluation.test_findings import draws, reading

GOLD = [1.0, 1.5, 2.0, 1.2, 0.8, 0.5]


def written(folder: Path, judge: Sequence[float], *, every: int = 4) -> Path:
    """A run whose reward and KL rise on, and whose gold has its peak in the third reading."""
    rows = []
    for at, (gold, own) in enumerate(zip(GOLD, judge, strict=True)):
        row: dict[str, Any] = asdict(reading(every * at, score=float(at), judge=None, kl=float(at)))
        row["judges"] = {"same": row["scores"], "other": draws(2, own), "gold": draws(3, gold)}
        rows.append(json.dumps(row) + "\n")
    (folder / "over.jsonl").write_text("".join(rows))
    return folder / "over.jsonl"


def told(path: Path, alarm: str) -> dict[str, Any]:
    alarms = import_module("alarms")
    found: dict[str, Any] = alarms.verdict(alarms.Run.of(path), alarm)
    return found | {name: round(found[name], 6) for name in ("lost", "lost_on")}


def stopped(found: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(found[name] for name in ("peak", "spoke", "in_time", "kept", "lost"))


def going_on(found: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(found[name] for name in ("said", "in_time_on", "kept_on", "lost_on"))


def test_a_judge_that_turns_with_gold_is_in_time_and_costs_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, judge=GOLD)
    for alarm in ("other", "gold"):
        assert stopped(told(path, alarm)) == (2, 3, True, 2, 0.0)
        # Said again when it has fallen twice as deep.
        assert going_on(told(path, alarm)) == ([3, 5], True, 2, 0.0)


def test_one_that_turns_before_gold_is_not_in_time_though_it_speaks(tmp_path: Path) -> None:
    found = told(written(tmp_path, judge=[1.0, 1.5, 1.0, 0.5, 0.0, 0.0]), "other")
    assert stopped(found) == (2, 2, False, 1, 0.5)


def test_nor_is_one_that_turns_three_readings_behind_it(tmp_path: Path) -> None:
    found = told(written(tmp_path, judge=[1.0, 1.5, 2.0, 2.5, 3.0, 2.0]), "other")
    assert stopped(found) == (2, 5, False, 4, 1.2)


def test_of_a_run_that_goes_on_what_is_said_anew_counts_and_the_best_of_all(tmp_path: Path) -> None:
    found = told(written(tmp_path, judge=[1.0, 0.5, 2.0, 1.0, 0.5, 0.5]), "other")
    assert stopped(found) == (2, 1, False, 0, 1.0)
    assert going_on(found) == ([1, 3], True, 2, 0.0)


def test_a_judge_that_rises_with_the_reward_is_silent_and_keeps_the_end(tmp_path: Path) -> None:
    found = told(written(tmp_path, judge=GOLD), "same")
    assert stopped(found) == (2, None, False, 5, 1.5)
    assert going_on(found) == ([], False, 5, 1.5)


def test_an_alarm_without_a_score_keeps_the_state_before_it_speaks(tmp_path: Path) -> None:
    found = told(written(tmp_path, judge=GOLD), "kl")
    assert stopped(found) == (2, 3, True, 2, 0.0)
    assert going_on(found) == ([3], True, 5, 1.5)


def test_of_a_panel_that_read_more_often_every_fourth_iteration_counts_and_the_last(
    tmp_path: Path,
) -> None:
    alarms = import_module("alarms")
    run = alarms.Run.of(written(tmp_path, judge=GOLD, every=2))
    assert [reading.iteration for reading in run.readings] == [0, 4, 8, 10]
    assert [round(mean, 6) for mean in run.means("gold")] == [1.0, 2.0, 0.8, 0.5]
