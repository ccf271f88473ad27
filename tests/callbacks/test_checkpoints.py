import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch.utils.data import DataLoader
from typing_extensions import override

from rlhf_forge.__main__ import main
from rlhf_forge.callbacks.checkpoints import (
    OF_LIGHTNING,
    AtomicCheckpointIO,
    IterationCheckpoint,
    batches_in,
    dependencies_in,
)
from rlhf_forge.errors import UserError
from rlhf_forge.modules.sft import SFTModule
from rlhf_forge.run_folder import numbered_checkpoints
from tests import tiny
from tests.tiny_project import QUIET, told

pytestmark = QUIET
SMALL: dict[str, Any] = dict.fromkeys(OF_LIGHTNING, 1)
BIG: dict[str, Any] = SMALL | {"weights": torch.zeros(100_000)}


class ManySteps(LightningModule):
    """Takes ``steps`` optimiser steps in each batch, as PPO takes many in an iteration."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.steps = steps

    @override
    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        for _ in range(self.steps):
            optimizer.step()

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Noted(AtomicCheckpointIO):
    """Notes at which iteration it was asked to save."""

    def __init__(self) -> None:
        super().__init__()
        self.iterations: list[int] = []

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        self.iterations.append(batches_in(checkpoint))
        super().save_checkpoint(checkpoint, path, storage_options)


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The kernel refuses to let any file grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_checkpoints_count_iterations_however_many_optimiser_steps_these_take(
    steps: int, tmp_path: Path
) -> None:
    noted = Noted()
    trainer = tiny.trainer(
        default_root_dir=tmp_path,
        callbacks=[IterationCheckpoint(3)],
        plugins=[noted],
    )
    trainer.fit(ManySteps(steps), DataLoader(range(10)))  # type: ignore[arg-type]
    assert noted.iterations == [3, 6, 9, 10]


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0)])
def test_an_interval_or_a_number_below_one_is_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        IterationCheckpoint(*numbers)


@pytest.mark.parametrize(("keep", "kept"), [(1, [10]), (2, [9, 10]), (9, [3, 6, 9, 10])])
def test_the_newest_checkpoints_stay_and_last_is_a_link_to_the_newest(
    keep: int, kept: list[int], tmp_path: Path
) -> None:
    trainer = tiny.trainer(
        default_root_dir=tmp_path,
        callbacks=[IterationCheckpoint(3, keep)],
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(ManySteps(1), DataLoader(range(10)))  # type: ignore[arg-type]
    folder = tmp_path / "checkpoints"
    names = [f"iteration-{number:06d}.ckpt" for number in kept]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "last.ckpt"]
    assert (folder / "last.ckpt").readlink() == Path(names[-1])
    for number, name in zip(kept, names, strict=True):
        checkpoint = AtomicCheckpointIO().load_checkpoint(folder / name)
        assert batches_in(checkpoint) == number


def test_numbers_of_seven_digits_are_newer_than_those_of_six(tmp_path: Path) -> None:
    names = ["iteration-1000000.ckpt", "iteration-999999.ckpt", "iteration-000050.ckpt"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in numbered_checkpoints(tmp_path)] == names


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(BIG, path)
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(path)["weights"], BIG["weights"])
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("when", ["writing", "syncing"])
def test_a_full_disk_leaves_the_checkpoint_before_and_no_litter(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint(SMALL, path)
    if when == "writing":
        with no_file_above(50_000), pytest.raises(UserError) as caught:
            io.save_checkpoint(BIG, path)
    else:

        def full(_: int) -> NoReturn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UserError) as caught:
            io.save_checkpoint(BIG, path)
        assert "No space left on device" in str(caught.value)
    assert str(caught.value).startswith(f"{path}: cannot be written (")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200 + len(str(path))
    assert io.load_checkpoint(path) == SMALL
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_in_the_middle_of_a_run_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path("lightning_logs/x/sft/checkpoints")
    last, second = folder / "last.ckpt", folder / "iteration-000002.ckpt"
    step = SFTModule.training_step
    kept: list[bytes] = []

    def fill_the_disk(self: SFTModule, batch: Any, batch_idx: int) -> None:
        step(self, batch, batch_idx)
        if batch_idx == 1:
            kept.append(last.read_bytes())
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept[0]) // 2, hard))

    monkeypatch.setattr(SFTModule, "training_step", fill_the_disk)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        error, hint = told(["fit", "--config", "sft.yaml", "--checkpoint_every", "1"], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.startswith(f"{second}: cannot be written (")
    assert "the checkpoint before this one is untouched" in hint
    assert last.read_bytes() == kept[0]
    assert AtomicCheckpointIO().load_checkpoint(last)["global_step"] == 1
    assert sorted(p.name for p in folder.iterdir()) == ["iteration-000001.ckpt", "last.ckpt"]


def test_metrics_of_a_step_are_on_disk_before_its_checkpoint(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Killed behind the checkpoint, the run goes on with the next step.
    write = AtomicCheckpointIO.save_checkpoint
    seen: list[tuple[int, list[int]]] = []

    def look(
        self: AtomicCheckpointIO, checkpoint: dict[str, Any], path: Any, **options: Any
    ) -> None:
        events = EventAccumulator("lightning_logs/x/sft")
        events.Reload()
        steps = sorted({event.step for event in events.Scalars("sft/loss")})
        seen.append((batches_in(checkpoint), steps))
        write(self, checkpoint, path, **options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", look)
    fit = ["fit", "--config", "sft.yaml", "--model.init_args.total_steps", "4"]
    assert main([*fit, "--checkpoint_every", "2"]) == 0
    assert seen == [(2, [0, 1]), (4, [0, 1, 2, 3]), (4, [0, 1, 2, 3])]


def test_the_folder_for_temporary_files_plays_no_role(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    monkeypatch.setattr(tempfile, "tempdir", None)

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a checkpoint was written elsewhere first")

    for name in ("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryDirectory"):
        monkeypatch.setattr(tempfile, name, refuse)
    assert main(["fit", "--config", "sft.yaml"]) == 0
    assert Path("lightning_logs/x/sft/checkpoints/last.ckpt").is_file()


def test_litter_of_a_killed_run_is_cleared(trained: Path) -> None:
    litter = Path("lightning_logs/x/sft/checkpoints/last.ckpt.tmp-1")
    litter.write_bytes(b"half")
    Path("lightning_logs/x/sft/artefact/forge.json").unlink()
    assert main(["fit", "--config", "sft.yaml", "--ckpt_path", "last"]) == 0
    assert not litter.exists()


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo"])
def test_a_checkpoint_is_plain_and_holds_no_weight_of_the_base(stage: str, trained: Path) -> None:
    path = Path(f"lightning_logs/x/{stage}/checkpoints/last.ckpt")
    state = torch.load(path, weights_only=True)["state_dict"]
    roles = {"sft": {"policy"}, "reward": {"reward"}, "ppo": {"policy", "value"}}[stage]
    assert state
    assert all(any(role in name for role in roles) for name in state), sorted(state)
    base = Path("base/model.safetensors").stat().st_size
    held = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert held < base / 10


def test_a_checkpoint_says_what_its_run_depended_on(trained: Path) -> None:
    from rlhf_forge.artefact import read_manifest
    from rlhf_forge.fingerprint import fingerprint_of

    folder = Path("lightning_logs/x/sft")
    found = dependencies_in(folder / "checkpoints" / "last.ckpt")
    assert found["data.batch_size"] == "4"
    assert fingerprint_of(found) == read_manifest(folder / "artefact").fingerprint
