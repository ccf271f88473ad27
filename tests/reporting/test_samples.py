from pathlib import Path

import pytest

from rlhf_forge.reporting.run import Run, read_run
from rlhf_forge.reporting.samples import samples_of, spreads_of
from tests.reporting.written import PROMPTS, responses, write_lines, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "mine")


def scored(folder: Path, gains: list[float]) -> Run:
    """The run, with these gains of the policy on its prompts."""
    rows = responses("x")[: len(gains)]
    for row, gain in zip(rows, gains, strict=True):
        row["models"]["ppo"]["score"] = row["models"]["sft"]["score"] + gain
    write_lines(folder / "responses.jsonl", rows)
    return read_run(str(folder))


def test_the_first_prompts_and_the_largest_gains_and_losses_are_shown(folder: Path) -> None:
    shown = samples_of(scored(folder, [0, 0, 0, 0, 1, -1, 3, 2, -2, -3]))
    assert [(sample.why, sample.prompt) for sample in shown] == [
        *(("from the beginning", f"x {at}") for at in range(4)),
        ("gained most", "x 6"),
        ("gained most", "x 7"),
        ("lost most", "x 9"),
        ("lost most", "x 8"),
    ]
    assert list(shown[0].answers) == ["sft", "ppo"]


def test_what_did_not_lose_is_no_loss_and_nothing_is_shown_twice(folder: Path) -> None:
    shown = samples_of(scored(folder, [0, 0, 0, 0, 1]))
    assert [sample.prompt for sample in shown] == [f"x {at}" for at in range(5)]


def test_tokens_and_scores_of_all_responses_are_spread_before_and_after(folder: Path) -> None:
    spread = spreads_of(read_run(str(folder)))
    assert spread.keys() == {"tokens", "score"}
    assert spread["tokens"].keys() == {"sft", "ppo"}
    assert len(spread["score"]["ppo"]) == PROMPTS


def test_without_evaluated_responses_the_last_samples_of_training_are_shown_unscored(
    folder: Path,
) -> None:
    (folder / "responses.jsonl").unlink()
    rows = [{"iteration": at, "prompt": "a", "sft": "b", "ppo": f"c {at}"} for at in (10, 14)]
    write_lines(folder / "ppo" / "samples.jsonl", rows)
    run = read_run(str(folder))
    [sample] = samples_of(run)
    assert sample.answers == {"sft": {"text": "b"}, "ppo": {"text": "c 14"}}
    assert spreads_of(run) == {}
