"""Checkpoints that are whole or not there, counted in iterations."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from typing_extensions import override

from rlhf_forge import ranks
from rlhf_forge.errors import UserError
from rlhf_forge.fingerprint import changes
from rlhf_forge.run_folder import CHECKPOINTS, LAST, NUMBERED, numbered_checkpoints

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
                hint=_way_out(Path(path)),
            ) from error
        if not _is_whole(checkpoint):
            raise UserError(f"{path}: not a checkpoint of rlhf_forge", hint=_way_out(Path(path)))
        return cast("dict[str, Any]", checkpoint)


class IterationCheckpoint(Callback):
    """Writes ``checkpoints/iteration-N.ckpt`` every so many iterations, and at the end.

    ``last.ckpt`` is a link to the newest. Lightning's ModelCheckpoint counts optimiser steps, of
    which an iteration may take any number.

    Args:
        every: Iterations between checkpoints.
        keep: Checkpoints that stay; an older one goes when a newer one is whole.
        dependencies: Of `rlhf_forge.fingerprint.dependencies_of`; the checkpoint holds them.
    """

    def __init__(
        self, every: int = 50, keep: int = 2, dependencies: Mapping[str, str] | None = None
    ) -> None:
        for name, value in {"every": every, "keep": keep}.items():
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        self.every, self.keep, self.dependencies = every, keep, dict(dependencies or {})

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
            for litter in checkpoints_of(trainer).glob("*.tmp-*"):
                litter.unlink(missing_ok=True)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._is_due(trainer) and not validation_follows(trainer):
            log_step(trainer)
            self._save(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and self._is_due(trainer):
            self._save(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # From a checkpoint of a finished run Lightning would not go on.
        if not was_cut_short(trainer):
            self._save(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        return batches_done(trainer) % self.every == 0 or was_cut_short(trainer)

    def _save(self, trainer: Trainer) -> None:
        save_last(trainer)
        if trainer.is_global_zero:
            newest = last_of(trainer).resolve()
            # Before it in the list are those of a run that then went on from an earlier one.
            numbered = numbered_checkpoints(newest.parent)
            for path in numbered[numbered.index(newest) + self.keep :]:
                path.unlink()


def validation_follows(trainer: Trainer) -> bool:
    """Whether held-out data is looked at before the next step: then this one is over behind that.

    From a checkpoint written in between Lightning would go on with the next step, and the metrics
    of that validation would be nowhere.
    """
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def log_step(trainer: Trainer) -> None:
    """Write down the metrics of the running step, which Lightning does behind `on_train_batch_end`.

    A run that is stopped at its checkpoint would lose them: it goes on with the next step.
    """
    trainer._logger_connector.update_train_step_metrics()


def save_last(trainer: Trainer) -> None:
    """Write the run's checkpoint as it is between two steps, and point ``last.ckpt`` at it."""
    last = last_of(trainer)
    path = last.with_name(NUMBERED.format(batches_done(trainer)))
    trainer.save_checkpoint(path)
    if trainer.is_global_zero:
        link = last.with_name(f"{LAST}.tmp-{os.getpid()}")
        link.symlink_to(path.name)
        link.replace(last)
        _sync_folder(last.parent)


def last_of(trainer: Trainer) -> Path:
    """Where the run's newest checkpoint is, once there is one."""
    return checkpoints_of(trainer) / LAST


def checkpoints_of(trainer: Trainer) -> Path:
    """Folder of the run's checkpoints."""
    return Path(trainer.default_root_dir) / CHECKPOINTS


def batches_done(trainer: Trainer) -> int:
    """Batches that the run has trained on, across resumes."""
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def batches_in(checkpoint: Mapping[str, Any]) -> int:
    """Batches that the run had trained on when it wrote this checkpoint."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return int(progress["total"]["processed"])


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


def _is_whole(checkpoint: object) -> bool:
    return isinstance(checkpoint, dict) and checkpoint.keys() >= OF_LIGHTNING


def _way_out(broken: Path) -> str:
    """The newest whole checkpoint beside a broken one, or a new start."""
    for path in numbered_checkpoints(broken.parent):
        if path.name == broken.resolve().name:
            continue
        try:
            whole = _is_whole(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        except Exception:  # this one is broken too
            continue
        if whole:
            return f"--ckpt_path {path} goes on from the one before it"
    return "start the stage again without --ckpt_path; what is there is kept beside it"


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
