"""Checkpoints that are whole or not there, counted in iterations."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from typing_extensions import override

from rlhf_forge import ranks
from rlhf_forge.errors import UserError
from rlhf_forge.fingerprint import changes
from rlhf_forge.run_folder import LAST

DEPENDENCIES = "forge_dependencies"
OF_LIGHTNING = {"pytorch-lightning_version", "state_dict", "loops"}
PROCESSES = "forge_processes"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, then renames: a crash leaves the old file or the new one.

    Lightning's own writes its temporary file to $TMPDIR and moves it, which is a copy where that is
    another file system: killed in the middle it leaves an empty checkpoint.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        except (OSError, RuntimeError) as error:
            unfinished.unlink(missing_ok=True)
            raise UserError(
                f"{target}: cannot be written ({error})",
                hint="free some space; the checkpoint before this one is untouched",
            ) from error
        _sync_folder(target.parent)

    @override
    def load_checkpoint(self, path: _PATH, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise UserError(f"{path}: no such checkpoint") from None
        except Exception as error:  # torch.load raises half a dozen kinds for a cut file
            raise UserError(
                f"{path}: truncated, or not a checkpoint of rlhf_forge",
                hint="start the stage again without --ckpt_path; what is there is kept beside it",
            ) from error
        if not isinstance(checkpoint, dict) or not checkpoint.keys() >= OF_LIGHTNING:
            raise UserError(f"{path}: not a checkpoint of rlhf_forge")
        return checkpoint


class IterationCheckpoint(Callback):
    """Writes ``checkpoints/last.ckpt`` every so many iterations, and at the end.

    Lightning's ModelCheckpoint counts optimiser steps, of which an iteration may take any number.

    Args:
        every: Iterations between checkpoints.
        dependencies: Of `rlhf_forge.fingerprint.dependencies_of`; the checkpoint holds them.
    """

    def __init__(self, every: int = 50, dependencies: Mapping[str, str] | None = None) -> None:
        if every < 1:
            raise ValueError(f"every must be 1 or more, got {every}")
        self.every, self.dependencies = every, dict(dependencies or {})

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[DEPENDENCIES] = self.dependencies
        checkpoint[PROCESSES] = trainer.world_size

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        written_by = checkpoint.get(PROCESSES, 1)
        if written_by != trainer.world_size:
            raise UserError(
                f"ckpt_path: written by a run of {written_by} processes, and this one has "
                f"{trainer.world_size}: sums would be rounded otherwise from here on",
                hint="go on with as many, or start a new run without --ckpt_path",
            )

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            for litter in _folder(trainer).glob("*.tmp-*"):
                litter.unlink(missing_ok=True)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if batches_done(trainer) % self.every == 0 or was_cut_short(trainer):
            save_last(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # From a checkpoint of a finished run Lightning would not go on.
        if not was_cut_short(trainer):
            save_last(trainer)


def save_last(trainer: Trainer) -> None:
    """Write the run's checkpoint as it is between two steps."""
    trainer.save_checkpoint(last_of(trainer))


def last_of(trainer: Trainer) -> Path:
    """Where the run's checkpoint is, once there is one."""
    return _folder(trainer) / LAST


def batches_done(trainer: Trainer) -> int:
    """Batches that the run has trained on, across resumes."""
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def was_cut_short(trainer: Trainer) -> bool:
    """Whether trainer.max_time ran out before the run was at its end, by any process's clock."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    left = [timer.time_remaining() for timer in timers]
    over = ranks.any_of(any(seconds is not None and seconds <= 0 for seconds in left))
    return over and trainer.should_stop and batches_done(trainer) < trainer.limit_train_batches


def dependencies_in(path: Path) -> dict[str, str]:
    """What the run that wrote a checkpoint depended on; empty if the checkpoint does not say.

    Raises:
        UserError: If there is no whole checkpoint.
    """
    found: dict[str, str] = AtomicCheckpointIO().load_checkpoint(path).get(DEPENDENCIES, {})
    return found


def require_same_run(path: Path, dependencies: Mapping[str, str]) -> None:
    """Refuse to go on from a checkpoint of a run that computed something else.

    Raises:
        UserError: With up to three things that differ.
    """
    found = dependencies_in(path)
    if found == dependencies:
        return
    differing = changes(found, dependencies) if found else "it does not say which"
    raise UserError(
        f"ckpt_path: {path} is of a run with another config: {differing}",
        hint="go on with the config of that run, or start a new one without --ckpt_path",
    )


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints"


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
