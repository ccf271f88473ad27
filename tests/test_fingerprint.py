"""What makes a stage run again, and what does not."""

import json
import shutil
from pathlib import Path

import pytest

from rlhf_forge.fingerprint import has_finished
from rlhf_forge.parsed_stage import parsed_stage
from tests.tiny_project import PAIRS, QUIET, write_base, write_pairs

pytestmark = QUIET


def fingerprint(stage: str = "sft", *arguments: str) -> str:
    return parsed_stage(["--config", f"{stage}.yaml", *arguments]).fingerprint


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.init_args.total_steps", "3"],
        ["--model.init_args.optimizer.learning_rate", "1e-3"],
        ["--model.init_args.backbone.precision", "bf16"],
        ["--seed_everything", "1"],
        ["--data.seed", "1"],
        ["--data.batch_size", "2"],
    ],
)
def test_what_is_computed_counts(arguments: list[str], project: Path) -> None:
    assert fingerprint("sft", *arguments) != fingerprint()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--run", "other"],
        ["--checkpoint_every", "7"],
        ["--trainer.enable_progress_bar", "false"],
        ["--ckpt_path", "last"],
        ["--data.workers", "1"],
        ["--trainer.callbacks+=LearningRateMonitor"],
        ["--trainer.callbacks+=rlhf_forge.callbacks.samples.SampleWriter"],
    ],
)
def test_where_it_goes_and_how_it_is_watched_does_not_count(
    arguments: list[str], project: Path
) -> None:
    assert fingerprint("sft", *arguments) == fingerprint()


def test_the_order_of_keys_in_a_file_does_not_count(project: Path) -> None:
    before = fingerprint()
    lines = Path("sft.yaml").read_text().splitlines()
    Path("sft.yaml").write_text("\n".join([lines[-1], *lines[:-1]]) + "\n")
    assert fingerprint() == before


def test_the_contents_of_data_validation_template_and_base_count(project: Path) -> None:
    seen = [fingerprint()]
    write_pairs(Path("pairs.jsonl"), PAIRS[:-1])
    seen.append(fingerprint())
    write_base(Path("base"), seed=1)
    seen.append(fingerprint())
    write_pairs(Path("held.jsonl"), PAIRS[:5])
    held = ["--data.validation", "held.jsonl"]
    seen.append(fingerprint("sft", *held))
    write_pairs(Path("held.jsonl"), PAIRS[:6])
    seen.append(fingerprint("sft", *held))
    template = ["--data.chat_template", "mine.jinja"]
    Path("mine.jinja").write_text("one")
    seen.append(fingerprint("sft", *template))
    Path("mine.jinja").write_text("two")
    seen.append(fingerprint("sft", *template))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    "callback",
    [["EarlyStopping", "monitor", "val/loss"], ["StochasticWeightAveraging", "swa_lrs", "1.0"]],
)
def test_a_callback_that_may_change_what_is_trained_counts(
    callback: list[str], project: Path
) -> None:
    name, key, value = callback
    given = [f"--trainer.callbacks+={name}", f"--trainer.callbacks.{key}", value]
    assert fingerprint("sft", *given) != fingerprint()


def test_the_contents_of_a_folder_of_data_count(project: Path) -> None:
    from datasets import Dataset

    seen = []
    for rows in (PAIRS, PAIRS[:-1]):
        shutil.rmtree("saved", ignore_errors=True)
        Dataset.from_list(rows).save_to_disk("saved")
        seen.append(fingerprint("sft", "--data.path", "saved"))
    assert seen[0] != seen[1]


def test_the_contents_behind_a_tilde_count(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    where = ["--data.path", "~/pairs.jsonl", "--model.init_args.backbone.path", "~/base"]
    seen = [fingerprint("sft", *where)]
    write_pairs(Path("pairs.jsonl"), PAIRS[:-1])
    seen.append(fingerprint("sft", *where))
    write_base(Path("base"), seed=1)
    seen.append(fingerprint("sft", *where))
    assert len(set(seen)) == len(seen)


def test_the_parents_count(trained: Path) -> None:
    manifest = Path("lightning_logs/x/sft/artefact/forge.json")
    seen = [fingerprint("reward"), fingerprint("ppo")]
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(fields | {"fingerprint": "another"}))
    seen += [fingerprint("reward"), fingerprint("ppo")]
    manifest.unlink()
    seen.append(fingerprint("reward"))
    assert len(set(seen)) == len(seen)


def test_a_stage_is_finished_by_its_artefact_and_only_for_the_present_config(
    trained: Path,
) -> None:
    artefact = Path("lightning_logs/x/sft/artefact")
    assert has_finished(artefact, fingerprint())
    assert not has_finished(artefact, fingerprint("sft", "--seed_everything", "1"))
    assert not has_finished(Path("lightning_logs/y/sft/artefact"), fingerprint())
