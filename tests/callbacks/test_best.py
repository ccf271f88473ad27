"""The best state of a run stays, by the metric that the config names, and becomes the artefact."""

from collections.abc import Sequence
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from typing_extensions import override

from rlhf_forge.__main__ import main
from rlhf_forge.artefact import read_manifest
from rlhf_forge.callbacks.best import BestCheckpoint
from rlhf_forge.callbacks.checkpoints import AtomicCheckpointIO, batches_in
from rlhf_forge.errors import UserError
from rlhf_forge.stage_config import Best
from tests import tiny
from tests.tiny_project import QUIET, told

pytestmark = QUIET
FOLDER = Path("lightning_logs/x/sft/checkpoints")
FIT = ["fit", "--config", "sft.yaml", "--model.init_args.total_steps", "6"]
FIT += ["--checkpoint_every", "1", "--keep_checkpoints", "9"]


class Logged(LightningModule):
    """Logs one number after the other."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.values = values

    @override
    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        with torch.no_grad():
            self.weight.add_(1)
        self.log("judge/score", self.values[batch_idx])

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(values: Sequence[float], by: Best, folder: Path) -> tuple[BestCheckpoint, Logged]:
    best, module = BestCheckpoint(by), Logged(values)
    trainer = tiny.trainer(
        default_root_dir=folder, callbacks=[best], plugins=[AtomicCheckpointIO()]
    )
    trainer.fit(module, DataLoader(range(len(values))))  # type: ignore[arg-type]
    best.restored(trainer, module)
    return best, module


@pytest.mark.parametrize(
    ("values", "mode", "value", "step"),
    [
        ([1.0, 3.0, 2.0, 3.0], "max", 3.0, 2),
        ([1.0, 3.0, 0.5, 0.75], "min", 0.5, 3),
        ([-2.0, -1.0], "max", -1.0, 2),
        ([5.0, 4.0, 3.0], "max", 5.0, 1),
        ([nan, 1.0, nan, inf], "max", 1.0, 2),
        ([nan, -inf, 1.0], "min", 1.0, 3),
    ],
)
def test_what_comes_back_are_the_weights_that_the_best_value_was_measured_on(
    values: list[float], mode: Any, value: float, step: int, tmp_path: Path
) -> None:
    best, module = run(values, Best("judge/score", mode), tmp_path)
    assert best.value == value
    assert module.weight.item() == step
    assert (
        batches_in(AtomicCheckpointIO().load_checkpoint(tmp_path / "checkpoints/best.ckpt")) == step
    )


@pytest.mark.parametrize("values", [[nan, nan], [inf, inf]])
def test_a_metric_that_was_never_a_number_ends_the_run(values: list[float], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="never logged in this run, or never finite"):
        run(values, Best("judge/score"), tmp_path)


def test_a_metric_that_is_not_logged_is_told_with_the_nearest(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told([*FIT, "--keep_best.metric", "sft/los"], capsys)
    assert error.startswith("keep_best.metric: sft/los was never logged in this run")
    assert hint == "did you mean sft/loss?"


@pytest.mark.parametrize("metric", ["val/loss", "sft/loss"])
def test_the_artefact_is_the_best_state_and_says_so(metric: str, project: Path) -> None:
    # Of a loss the most is at the start: the best state is not the last one.
    best = ["--keep_best", f"{{metric: {metric}, mode: max}}", "--trainer.val_check_interval", "2"]
    assert main([*FIT, *best]) == 0
    manifest = read_manifest(Path("lightning_logs/x/sft/artefact"))
    assert (manifest.kept_by, manifest.planned_steps) == (metric, 6)
    assert manifest.steps < 6
    card = Path("lightning_logs/x/sft/artefact/README.md").read_text()
    assert f": the best of its run by {metric}, after {manifest.steps} of 6 steps." in card
    then = AtomicCheckpointIO().load_checkpoint(FOLDER / f"iteration-{manifest.steps:06d}.ckpt")
    artefact = load_file("lightning_logs/x/sft/artefact/adapter_model.safetensors")
    theirs = sorted(tensor.double().sum().item() for tensor in then["state_dict"].values())
    assert sorted(tensor.double().sum().item() for tensor in artefact.values()) == theirs
    assert manifest.metrics[metric] == pytest.approx(
        AtomicCheckpointIO().load_checkpoint(FOLDER / "best.ckpt")["forge_metrics"][metric]
    )


@pytest.mark.parametrize("metric", ["val/loss", "sft/loss"])
def test_a_run_goes_on_from_its_best_state_to_the_very_same_end(metric: str, project: Path) -> None:
    best = ["--keep_best", f"{{metric: {metric}, mode: max}}", "--trainer.val_check_interval", "2"]
    assert main([*FIT, *best]) == 0
    whole = AtomicCheckpointIO().load_checkpoint(FOLDER / "last.ckpt")
    for path in (FOLDER.parent / "artefact").iterdir():
        path.unlink()
    assert main([*FIT, *best, "--ckpt_path", "best"]) == 0
    again = AtomicCheckpointIO().load_checkpoint(FOLDER / "last.ckpt")
    assert all(
        torch.equal(tensor, again["state_dict"][name])
        for name, tensor in whole["state_dict"].items()
    )


def test_best_is_told_if_there_is_none(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error, hint = told(["validate", "--config", "sft.yaml", "--ckpt_path", "best"], capsys)
    assert error == f"ckpt_path: no best checkpoint: no {FOLDER / 'best.ckpt'}"
    assert "keep_best" in hint
