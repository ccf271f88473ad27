from pathlib import Path

import pytest

from rlhf_forge.reporting.frontier import Frontier, frontiers_of
from rlhf_forge.reporting.run import read_run
from tests.reporting.written import readings, write_artefact, write_lines, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "mine")


def found(folder: Path) -> list[Frontier]:
    return [f for stage in read_run(str(folder)).stages for f in frontiers_of(stage)]


def test_judge_and_reward_of_the_watch_are_held_against_kl(folder: Path) -> None:
    write_artefact(folder / "ppo", "ppo", steps=8)
    judge, reward = found(folder)
    rows = readings("x")
    assert (judge.score, reward.score) == ("judge", "reward")
    assert judge.values == [row["judge"] for row in rows]
    assert reward.values == [row["score"] for row in rows]
    assert judge.kl == [row["kl"] for row in rows]
    assert judge.chosen == 4
    assert judge.iterations[4] == 8
    assert judge.fit is None


def test_the_curve_that_the_watch_fitted_begins_at_the_start_and_peaks_where_it_says(
    folder: Path,
) -> None:
    rows = readings("x")
    # d (alpha - beta log d) has its peak at d = exp(alpha / beta - 1), here 1.
    fit = {"alpha": 1.5, "beta": 1.5, "peak": {"kl": 1.0, "low": 0.5, "high": None}}
    rows[-1]["frontier"] = fit
    write_lines(folder / "ppo" / "watch.jsonl", rows)
    judge, reward = found(folder)
    kl, values = judge.fitted(700)
    assert (kl[0], values[0]) == (0.0, judge.values[0])
    assert kl[values.index(max(values))] == pytest.approx(1.0)
    assert max(values) == pytest.approx(judge.values[0] + 1.5)
    assert kl[-1] == max(judge.kl)
    assert reward.fit is None


def test_without_a_watch_the_points_are_those_of_training(folder: Path) -> None:
    (folder / "ppo" / "watch.jsonl").unlink()
    [reward] = found(folder)
    assert (reward.score, reward.source) == ("reward", "training")
    assert reward.kl == pytest.approx([0.2 * step for step in range(14)])
    assert reward.chosen == 13


def test_of_a_stage_that_has_not_finished_no_policy_was_kept(folder: Path) -> None:
    (folder / "ppo" / "artefact" / "forge.json").unlink()
    assert [frontier.chosen for frontier in found(folder)] == [None, None]
