"""The watch reads PPO at its start, every so often and at its end, and does what its key says."""

import json
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from rlhf_forge.__main__ import main
from rlhf_forge.artefact import read_manifest
from rlhf_forge.callbacks import watch
from rlhf_forge.callbacks.checkpoints import AtomicCheckpointIO
from rlhf_forge.callbacks.watch import news_of, reading_of
from rlhf_forge.evaluation.findings import JUDGE_FELL, JUDGE_STALLED, Finding
from rlhf_forge.evaluation.readings import Reading, kept_by_judge
from rlhf_forge.functional.frontier import fit_frontier
from tests import tiny_project
from tests.tiny_judges import CALLS
from tests.tiny_project import QUIET, told

pytestmark = QUIET
FOLDER = Path("lightning_logs/x/ppo")
FALLS, LETTERS = "tests.tiny_judges:falls", "tests.tiny_judges:letters"
FAST = ["--model.init_args.updates", "{minibatch_size: 4, learning_rate: 0.02}"]


def fit(iterations: int, judge: str | None, *more: str) -> None:
    CALLS.clear()
    words = ["fit", "--config", "ppo.yaml", "--model.init_args.total_iterations", str(iterations)]
    words += ["--watch.number", "3", "--watch.every", "2"]
    words += [] if judge is None else ["--watch.judge", judge]
    assert main([*words, *more]) == 0


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / "watch.jsonl").read_text().splitlines()]


def last_state() -> dict[str, Any]:
    return AtomicCheckpointIO().load_checkpoint(FOLDER / "checkpoints" / "last.ckpt")


@dataclass(frozen=True)
class Seen:
    """A run whose judge likes each policy less than the one before, and that raises its price."""

    folder: Path
    rows: list[dict[str, Any]]
    err: list[str]
    calls: list[int]
    kl_coef: float

    def logged(self, tag: str) -> list[Any]:
        events = EventAccumulator(str(self.folder))
        events.Reload()
        return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tiny_project.copy_trained(tmp_path_factory.mktemp("watched"))
    err = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(err):
        patch.chdir(folder)
        price = ["--model.init_args.objective.kl_coef", "0.3"]
        fit(5, FALLS, *FAST, *price, "--watch.action", "raise_kl_coef")
        lines = err.getvalue().splitlines()
        yield Seen(folder / FOLDER, rows(), lines, CALLS.copy(), last_state()["kl_coef"])


def test_a_chart_has_the_iterations_behind_the_judged_policy(seen: Seen) -> None:
    at = [0, 2, 4, 5]
    expected = [(step, pytest.approx(0.1 - call)) for call, step in enumerate(at, 1)]
    assert seen.logged("judge/score") == expected
    assert [row["iteration"] for row in seen.rows] == at
    assert seen.calls == [3] * 4


def test_the_first_reading_is_of_where_ppo_starts(seen: Seen) -> None:
    assert seen.rows[0]["kl"] == 0.0
    assert seen.rows[0]["score_at_equal_length"] == seen.rows[0]["score"]
    assert all(row["kl"] != 0 for row in seen.rows[1:])


def test_the_artefact_tells_what_was_read_of_its_state(seen: Seen) -> None:
    metrics = read_manifest(seen.folder / "artefact").metrics
    assert metrics["watch/score"] == pytest.approx(seen.rows[0]["score"])
    assert metrics["judge/score"] == pytest.approx(seen.rows[0]["judge"])


def test_the_artefact_is_what_ppo_started_from_if_the_judge_liked_that_best(seen: Seen) -> None:
    manifest = read_manifest(seen.folder / "artefact")
    assert (manifest.steps, manifest.kept_by) == (0, "judge/score")
    start = load_file(seen.folder.parent / "sft" / "artefact" / "adapter_model.safetensors")
    kept = load_file(seen.folder / "artefact" / "adapter_model.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in start.items())


def test_what_is_found_is_said_in_lines_of_80_columns(seen: Seen) -> None:
    starts = [number for number, line in enumerate(seen.err) if line.startswith("watch, ")]
    first = seen.err[starts[0]]
    assert first.startswith("watch, iteration 2: the judge's score has fallen by 1.00 (± 0.00)")
    assert all(len(line) <= 80 for start in starts for line in seen.err[start : start + 3])
    said = " ".join(line.strip() for line in seen.err[starts[0] : starts[1]])
    assert said == f"watch, iteration 2: {seen.rows[1]['findings'][0]}"


def test_what_is_found_is_in_tensorboard_too(seen: Seen) -> None:
    events = EventAccumulator(str(seen.folder))
    events.Reload()
    found = events.Tensors("watch/findings/text_summary")
    assert {event.step for event in found} == {2, 4}


def test_the_price_of_kl_is_raised_each_time_the_judge_has_fallen_twice_as_far(seen: Seen) -> None:
    prices = [0.3, 0.3, 0.6, 0.6, 1.2]
    assert seen.logged("objective/kl_coef") == [*enumerate(pytest.approx(p) for p in prices)]
    assert seen.kl_coef == pytest.approx(1.2)  # the third fall is half as deep again, no more


def test_a_run_that_is_to_stop_does_so_and_does_not_go_on_from_its_last_checkpoint(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(9, FALLS, "--watch.action", "stop")
    assert "watch, iteration 2: the run stops here" in capsys.readouterr().err
    text = (FOLDER / "watch.jsonl").read_text()
    (FOLDER / "artefact" / "forge.json").unlink()  # as if killed before the artefact was whole
    fit(9, FALLS, "--watch.action", "stop", "--ckpt_path", "last")
    assert (FOLDER / "watch.jsonl").read_text() == text
    assert [row["iteration"] for row in rows()] == [0, 2]
    manifest = read_manifest(FOLDER / "artefact")
    assert (manifest.steps, manifest.planned_steps) == (0, 9)


@pytest.fixture
def a_nat_an_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so few responses the KL is mostly chance."""

    def read(seen: Any, done: int, **more: Any) -> Reading:
        return replace(reading_of(seen, done, **more), kl=float(done))

    monkeypatch.setattr(watch, "reading_of", read)


@pytest.mark.usefixtures("a_nat_an_iteration")
def test_a_run_stops_beyond_its_budget_and_its_artefact_is_the_best_within(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(9, None, "--watch.kl_budget", "5")
    err = " ".join(capsys.readouterr().err.split())
    assert "watch, iteration 6: the run stops here: a KL of 6.0 nats is beyond watch.kl_bud" in err
    assert [row["iteration"] for row in rows()] == [0, 2, 4, 6]
    scores = {row["iteration"]: row["score"] for row in rows()}
    manifest = read_manifest(FOLDER / "artefact")
    assert (manifest.steps, manifest.kept_by) == (
        max((0, 2, 4), key=lambda at: scores[at]),
        "watch/score",
    )


def test_a_second_reward_model_judges_and_changes_nothing_of_what_is_learnt(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["fit", "--config", "reward.yaml", "--name", "reward-judge", "--seed_everything", "5"]
    assert main([*other, "--model.init_args.reference_likelihood", "true"]) == 0
    fit(2, "lightning_logs/x/reward-judge/artefact", *FAST)
    err = " ".join(capsys.readouterr().err.split())
    assert "watch.judge: the report card of lightning_logs/x/reward-judge/artefact is bad (" in err
    judged = [row["judge"] for row in rows()]
    assert len({*judged, *(row["score"] for row in rows())}) == 4
    state = last_state()["state_dict"]
    assert not any("judge" in name for name in state)
    fit(2, None, *FAST)
    assert all("judge" not in row for row in rows())
    alone = last_state()["state_dict"]
    assert all(torch.equal(tensor, alone[name]) for name, tensor in state.items())
    manifest = read_manifest(FOLDER / "artefact")
    assert (manifest.steps, manifest.kept_by) == (2, "")


@pytest.mark.slow
def test_a_run_goes_on_from_its_best_state_though_that_be_its_start(trained: Path) -> None:
    fit(2, FALLS, *FAST)
    whole = last_state()["state_dict"]
    (FOLDER / "artefact" / "forge.json").unlink()
    fit(2, FALLS, *FAST, "--ckpt_path", "best")
    assert all(torch.equal(tensor, last_state()["state_dict"][n]) for n, tensor in whole.items())
    assert [row["iteration"] for row in rows()] == [0, 2]


@pytest.mark.slow
def test_a_reward_of_functions_is_read_as_ppo_maximises_it(trained: Path) -> None:
    fit(1, LETTERS, "--model.init_args.reward", LETTERS)
    assert [row["score"] for row in rows()] == [row["judge"] for row in rows()]


@pytest.mark.slow
def test_the_reward_as_its_own_judge_says_what_the_reward_says(trained: Path) -> None:
    fit(2, "lightning_logs/x/reward/artefact")
    for row in rows():
        assert row["judge"] == pytest.approx(row["score"])


def test_a_run_that_was_killed_goes_on_to_the_very_same_readings(trained: Path) -> None:
    more = ["--watch.action", "raise_kl_coef", "--checkpoint_every", "1", "--keep_checkpoints", "9"]
    fit(4, LETTERS, *FAST, *more)
    whole, text = last_state(), (FOLDER / "watch.jsonl").read_text()
    # As if it had been killed in its last iteration, with a reading that no checkpoint holds.
    last = FOLDER / "checkpoints" / "last.ckpt"
    last.unlink()
    last.symlink_to("iteration-000003.ckpt")
    (FOLDER / "artefact" / "forge.json").unlink()
    (FOLDER / "watch.jsonl").write_text('{"iteration": 99}\n')
    fit(4, LETTERS, *FAST, *more, "--ckpt_path", "last")
    assert (FOLDER / "watch.jsonl").read_text() == text
    again = last_state()
    [state] = [name for name in whole["callbacks"] if "Watch" in name]
    readings = [Reading(**fields) for fields in again["callbacks"][state]["readings"]]
    kept = kept_by_judge(readings).iteration
    assert read_manifest(FOLDER / "artefact").steps == kept
    assert again["callbacks"][state] == whole["callbacks"][state]
    assert all(torch.equal(t, again["state_dict"][n]) for n, t in whole["state_dict"].items())


@pytest.mark.parametrize(
    ("judge", "error"),
    [
        ("nowhere:f", "watch.judge: no function nowhere:f"),
        pytest.param(None, "watch: reads held-out prompts, and there", marks=pytest.mark.slow),
        pytest.param("nowhere", "watch.judge: nowhere: no artefact here", marks=pytest.mark.slow),
        pytest.param(
            "lightning_logs/x/sft/artefact",
            "watch.judge: lightning_logs/x/sft/artefact: a sft artefact, where one of reward",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_watch_that_cannot_look_is_told_before_the_run(
    judge: str | None, error: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--config", "ppo.yaml"]
    words += ["--watch.judge", judge] if judge else ["--watch.every", "1"]
    words += [] if judge else ["--data.validation_fraction", "0"]
    found, _ = told(words, capsys)
    assert found.startswith(error)
    assert main([*words, "--dry-run"]) == 1
    assert f"error: {error}" in capsys.readouterr().err
    assert (FOLDER / "artefact").exists()  # that of before: nothing was moved


def test_a_row_has_the_curve_fitted_to_all_readings_so_far(seen: Seen) -> None:
    kl = torch.tensor([row["kl"] for row in seen.rows]).double()
    gains = torch.tensor([row["judge"] - seen.rows[0]["judge"] for row in seen.rows]).double()
    for at, row in enumerate(seen.rows, 1):
        curve = fit_frontier(kl[:at], gains[:at])
        found = row["frontier"]
        assert (found is None) == (curve is None)
        if curve is not None:
            assert (found["alpha"], found["beta"]) == pytest.approx((curve.alpha, curve.beta))
            assert (found["peak"] is None) == (curve.peak is None)


def test_a_judge_that_falls_and_stalls_by_turns_is_told_once_each() -> None:
    fell, stalled = (Finding(kind, 1, "") for kind in (JUDGE_FELL, JUDGE_STALLED))
    spoken: dict[str, int] = {}
    said = []
    for found in ([fell], [stalled], [fell], [stalled]):
        news, spoken = news_of(found, spoken)
        said += news
    assert said == [fell, stalled]
    assert news_of([], spoken) == ([], {})


def test_what_lasts_is_told_again_each_time_it_is_twice_as_bad() -> None:
    """The price of KL is doubled each time: with a trouble that lasts it must not run away."""
    spoken: dict[str, int] = {}
    said = []
    for severity in [*range(1, 101), 50, 100, 128]:
        news, spoken = news_of([Finding(JUDGE_STALLED, severity, "")], spoken)
        said += [finding.severity for finding in news]
    assert said == [1, 2, 4, 8, 16, 32, 64, 128]
