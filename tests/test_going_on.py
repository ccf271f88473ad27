"""A run that was stopped goes on where it was, or says why not."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from rlhf_forge.__main__ import main
from rlhf_forge.artefact import read_manifest
from rlhf_forge.parsed_stage import parsed_stage
from tests.tiny_project import PAIRS, QUIET, STAGES, told, write_pairs

pytestmark = QUIET
FIT = ["fit", "--config", "sft.yaml"]
LAST = Path("lightning_logs/x/sft/checkpoints/last.ckpt")
# 30 of the 40 pairs train: in batches of 5 a round of the data is 6 steps.
STEPS_OF_A_ROUND = 6


class KilledError(Exception):
    """Stands for the end of the process in the middle of a run."""


def weights(run: str) -> dict[str, torch.Tensor]:
    return load_file(f"lightning_logs/{run}/sft/artefact/adapter_model.safetensors")


def stop_after(steps: int, patch: pytest.MonkeyPatch) -> None:
    """Training dies when it begins the step after ``steps``."""
    from rlhf_forge.modules.sft import SFTModule

    step = SFTModule.training_step

    def stopping(self: SFTModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == steps:
            raise KilledError
        step(self, batch, batch_idx)

    patch.setattr(SFTModule, "training_step", stopping)


def test_a_round_of_the_data_is_as_long_as_these_tests_say(project: Path) -> None:
    assert len(parsed_stage(FIT[1:]).data().train.examples) == 5 * STEPS_OF_A_ROUND


@pytest.mark.parametrize("stopped", [STEPS_OF_A_ROUND, STEPS_OF_A_ROUND - 2])
@pytest.mark.parametrize("by_name", [True, False])
def test_a_run_that_goes_on_ends_with_the_very_same_weights(
    stopped: int, by_name: bool, project: Path
) -> None:
    fit = [*FIT, "--model.init_args.total_steps", "8", "--data.batch_size", "5"]
    fit += ["--checkpoint_every", str(stopped)]
    assert main([*fit, "--run", "whole"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after(stopped, patch)
        with pytest.raises(KilledError):
            main(fit)
    checkpoint = "last" if by_name else str(LAST)
    assert main([*fit, "--ckpt_path", checkpoint]) == 0
    whole, resumed = weights("whole"), weights("x")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_on_the_border_of_a_round_goes_on_with_the_next_rows(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_forge.modules.sft import SFTModule

    fit = [*FIT, "--model.init_args.total_steps", "2", "--data.batch_size", "30"]
    fit += ["--checkpoint_every", "1"]
    seen: list[list[int]] = []
    step = SFTModule.training_step

    def note(self: SFTModule, batch: Any, batch_idx: int) -> None:
        seen.append(batch.positions.tolist())
        step(self, batch, batch_idx)

    monkeypatch.setattr(SFTModule, "training_step", note)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KilledError):
            main(fit)
    assert main([*fit, "--ckpt_path", "last"]) == 0
    assert seen == [list(range(30)), list(range(30, 60))]


def steps_of(metric: str, run: str) -> set[int]:
    events = EventAccumulator(f"lightning_logs/{run}/sft")
    events.Reload()
    return {event.step for event in events.Scalars(metric)}


@pytest.mark.parametrize("when", ["on_validation_start", "validation_step"])
def test_a_run_killed_in_a_validation_behind_a_checkpoint_looks_at_it_again(
    when: str, project: Path
) -> None:
    from rlhf_forge.modules.sft import SFTModule

    fit = [*FIT, "--model.init_args.total_steps", "6", "--checkpoint_every", "2"]
    fit += ["--trainer.val_check_interval", "2"]
    assert main([*fit, "--run", "whole"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        kept = getattr(SFTModule, when)

        def dying(self: SFTModule, *args: Any) -> Any:
            if self.trainer.fit_loop.epoch_loop.total_batch_idx == 3:
                raise KilledError
            return kept(self, *args)

        patch.setattr(SFTModule, when, dying)
        with pytest.raises(KilledError):
            main(fit)
    assert main([*fit, "--ckpt_path", "last"]) == 0
    for metric in ("val/loss", "sft/loss"):
        assert steps_of(metric, "x") == steps_of(metric, "whole")
    assert steps_of("val/loss", "x") == {1, 3, 5}
    assert all(torch.equal(weights("whole")[name], w) for name, w in weights("x").items())


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_behind_its_last_step_still_ends_with_the_same_artefact(
    stage: str, trained: Path
) -> None:
    artefact = Path(f"lightning_logs/x/{stage}/artefact")
    before = read_manifest(artefact)
    for path in artefact.iterdir():
        path.unlink()
    assert main(["fit", "--config", f"{stage}.yaml", "--ckpt_path", "last"]) == 0
    after = read_manifest(artefact)
    assert after.golden == before.golden
    assert after.metrics == before.metrics != {}
    assert (after.steps, after.planned_steps) == (2, 2)
    assert (after.reward_mean, after.reward_std) == (before.reward_mean, before.reward_std)
    assert (after.reward_std != 1.0) == (stage == "reward")
    config = yaml.safe_load(Path(f"lightning_logs/x/{stage}/config.yaml").read_text())
    assert config["ckpt_path"] is None, "a run from this config would train nothing"


def test_a_finished_run_is_not_run_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artefact = Path("lightning_logs/x/sft/artefact/forge.json")
    before = artefact.stat().st_mtime_ns
    assert main([*FIT, "--ckpt_path", "last"]) == 0
    assert "sft: finished before, not run again" in capsys.readouterr().err
    assert artefact.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (
            ["--model.init_args.optimizer.learning_rate", "0.001"],
            "model.init_args.optimizer.learning_rate (was 0.0002, is 0.001)",
        ),
        (
            ["--seed_everything", "1"],
            "model.init_args.seed (was 0, is 1), seed_everything (was 0, is 1)",
        ),
        (["--model.init_args.total_steps", "3"], "model.init_args.total_steps (was 2, is 3)"),
        (["--data.path", "other.jsonl"], 'data.path (was "pairs.jsonl", is "other.jsonl")'),
        (
            [
                f"--data.{key}"
                for key in ("seed=1", "validation_fraction=0.3", "max_length=60", "batch_size=2")
            ],
            "data.batch_size (was 4, is 2), data.max_length (was 64, is 60), "
            "data.seed (was 0, is 1) and 1 more",
        ),
    ],
)
def test_a_run_does_not_go_on_under_another_config(
    change: list[str], differing: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(Path("other.jsonl"), PAIRS[:-1])
    artefact = Path("lightning_logs/x/sft/artefact/forge.json")
    before = artefact.read_text(), LAST.read_bytes()
    error, hint = told([*FIT, *change, "--ckpt_path", "last"], capsys)
    assert error == f"ckpt_path: {LAST} is of a run with another config: {differing}"
    assert hint
    assert (artefact.read_text(), LAST.read_bytes()) == before


def test_a_run_does_not_go_on_with_other_contents_of_its_data(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(Path("pairs.jsonl"), PAIRS[::-1])
    error, _ = told([*FIT, "--ckpt_path", "last"], capsys)
    assert error.endswith("another config: the contents of data.path")


def test_a_run_that_goes_on_from_elsewhere_keeps_what_is_there(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["--run", "y", "--seed_everything", "1"]
    assert main([*FIT, *other]) == 0
    checkpoint = "lightning_logs/y/sft/checkpoints/last.ckpt"
    assert main([*FIT, *other, "--run", "x", "--ckpt_path", checkpoint]) == 0
    assert "kept as lightning_logs/x/sft.1" in capsys.readouterr().err
    assert (Path("lightning_logs/x/sft.1") / "artefact" / "forge.json").is_file()


# -- ended early ----------------------------------------------------------------------------------

LONG = [*FIT, "--model.init_args.total_steps", "12"]


def in_time_for(steps: int, patch: pytest.MonkeyPatch) -> None:
    """The clock of trainer.max_time stands still but for a jump of a day in the last of steps."""
    from lightning.pytorch.callbacks import timer

    from rlhf_forge.modules.sft import SFTModule

    step = SFTModule.training_step
    clock = {"now": 0.0}

    def jumping(self: SFTModule, batch: Any, batch_idx: int) -> None:
        step(self, batch, batch_idx)
        if batch_idx + 1 == steps:
            clock["now"] += 86_400

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return clock["now"]

    patch.setattr(SFTModule, "training_step", jumping)
    patch.setattr(timer, "time", Clock)


def test_a_run_whose_time_is_up_has_no_artefact_and_goes_on_later(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*LONG, "--run", "whole"]) == 0
    an_hour = ["--trainer.max_time", "00:01:00:00"]
    with pytest.MonkeyPatch.context() as patch:
        in_time_for(5, patch)
        error, hint = told([*LONG, *an_hour], capsys)
    assert error == "trainer.max_time: over after 5 of 12 steps, so there is no artefact"
    assert "--ckpt_path last" in hint
    assert not Path("lightning_logs/x/sft/artefact").exists()
    assert "after 5 of 12 steps" in told([*LONG, *an_hour, "--ckpt_path", "last"], capsys)[0]
    assert not Path("lightning_logs/x/sft/artefact").exists()
    assert main([*LONG, "--trainer.max_time", "02:00:00:00", "--ckpt_path", "last"]) == 0
    whole, resumed = weights("whole"), weights("x")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_whose_time_is_up_with_its_last_step_is_whole(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_time_for(2, monkeypatch)
    assert main([*FIT, "--trainer.max_time", "00:01:00:00"]) == 0
    assert read_manifest(Path("lightning_logs/x/sft/artefact")).steps == 2


EARLY = """\
trainer:
  val_check_interval: 2
  callbacks:
    class_path: EarlyStopping
    init_args: {monitor: val/loss, patience: 1, min_delta: 100.0}
"""


def test_early_stopping_ends_a_run_and_the_artefact_says_when(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("early.yaml").write_text(EARLY)
    fit = [*LONG, "--config", "early.yaml"]
    assert main(fit) == 0
    artefact = Path("lightning_logs/x/sft/artefact")
    manifest = read_manifest(artefact)
    assert (manifest.steps, manifest.planned_steps) == (4, 12)
    assert "after 4 of 12 steps" in (artefact / "README.md").read_text()
    assert main([*fit, "--ckpt_path", "last"]) == 0
    assert "finished before, not run again" in capsys.readouterr().err
    shutil.rmtree(artefact)
    assert main([*fit, "--ckpt_path", "last"]) == 0
    assert read_manifest(artefact) == manifest


def test_without_the_early_stopping_the_run_is_another_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("early.yaml").write_text(EARLY)
    assert main([*LONG, "--config", "early.yaml"]) == 0
    error, _ = told([*LONG, "--ckpt_path", "last"], capsys)
    assert "another config: trainer.callbacks (was [{" in error


# -- nothing to go on from ------------------------------------------------------------------------


def test_last_is_told_if_there_is_none(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error, hint = told([*FIT, "--ckpt_path", "last"], capsys)
    assert error == f"fit: nothing to start from: no {LAST}"
    assert hint


def test_auto_starts_where_there_is_nothing_and_goes_on_where_there_is(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = [*FIT, "--checkpoint_every", "1", "--ckpt_path", "auto"]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(KilledError):
            main(fit)
        assert LAST.is_file()
    assert main(fit) == 0
    assert read_manifest(LAST.parents[1] / "artefact").steps == 2
    assert not Path("lightning_logs/x/sft.1").exists(), "it began anew"
    capsys.readouterr()
    assert main(fit) == 0
    assert "sft: finished before, not run again" in capsys.readouterr().err


def test_a_missing_checkpoint_is_told_before_the_data_is_read(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told([*FIT, "--ckpt_path", "nowhere.ckpt"], capsys)
    assert error == "ckpt_path: no such file: nowhere.ckpt"
    assert hint == f"--ckpt_path last means {LAST}"


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_truncated_checkpoint_is_told(
    share: float, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = LAST.read_bytes()
    Path("cut.ckpt").write_bytes(whole[: int(share * len(whole))])
    error, _ = told([*FIT, "--ckpt_path", "cut.ckpt"], capsys)
    assert error == "cut.ckpt: truncated, or not a checkpoint of rlhf_forge"


@pytest.mark.parametrize("fault", [b"", b"not a checkpoint"])
def test_of_a_broken_checkpoint_the_one_before_it_is_offered_and_ends_the_same(
    fault: bytes, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = [*FIT, "--checkpoint_every", "1", "--keep_checkpoints", "3"]
    fit += ["--model.init_args.total_steps", "3"]
    assert main(fit) == 0
    whole = weights("x")
    shutil.rmtree("lightning_logs/x/sft/artefact")
    LAST.resolve().write_bytes(fault)
    error, hint = told([*fit, "--ckpt_path", "last"], capsys)
    assert error == f"{LAST}: truncated, or not a checkpoint of rlhf_forge"
    before = LAST.with_name("iteration-000002.ckpt")
    assert hint == f"--ckpt_path {before} goes on from the one before it"
    assert main([*fit, "--ckpt_path", str(before)]) == 0
    resumed = weights("x")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_broken_checkpoint_is_not_offered_in_place_of_another(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--checkpoint_every", "1"]) == 0
    shutil.rmtree("lightning_logs/x/sft/artefact")
    for path in LAST.parent.iterdir():
        path.write_bytes(b"")
    _, hint = told([*FIT, "--ckpt_path", "last"], capsys)
    assert hint == "start the stage again without --ckpt_path; what is there is kept beside it"


def test_only_the_first_process_may_miss_a_checkpoint_that_it_may_have_moved_aside(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    from rlhf_forge.cli import ForgeCLI

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    cli = ForgeCLI("fit", [*FIT[1:], "--ckpt_path", "last"])
    assert cli.config.ckpt_path is None


def test_a_checkpoint_of_another_stage_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "lightning_logs/x/reward/checkpoints/last.ckpt"
    assert "checkpoint" in told([*FIT, "--ckpt_path", other], capsys)[0]


@pytest.mark.parametrize("word", ["validate", "test", "predict"])
def test_without_a_checkpoint_nothing_is_measured(
    word: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told([word, "--config", "sft.yaml"], capsys)
    assert error == f"{word}: nothing to start from: no {LAST}"
    assert "run fit" in hint


def test_a_run_stopped_before_its_first_checkpoint_starts_anew_and_the_rest_is_kept(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("lightning_logs/x/sft")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("run: x\n")
    (folder / "events.out.tfevents.1").write_text("of the run that was stopped")
    assert main([*FIT, "--ckpt_path", "last"]) == 0
    assert "stopped before its first checkpoint, so it starts anew" in capsys.readouterr().err
    assert (folder / "artefact").is_dir()
    assert Path("lightning_logs/x/sft.1/events.out.tfevents.1").is_file()


@pytest.mark.parametrize("content", [["a list"], {"weights": torch.zeros(2)}])
def test_a_file_of_another_tool_is_no_checkpoint(
    content: object, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, "foreign.ckpt")
    for word in ("fit", "validate"):
        error, _ = told([word, "--config", "sft.yaml", "--ckpt_path", "foreign.ckpt"], capsys)
        assert error == "foreign.ckpt: not a checkpoint of rlhf_forge"
