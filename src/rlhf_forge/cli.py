"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's command line, set up for RLHF."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from rlhf_forge.callbacks.artefact_writer import ArtefactWriter
from rlhf_forge.callbacks.best import BestCheckpoint
from rlhf_forge.callbacks.checkpoints import (
    AtomicCheckpointIO,
    IterationCheckpoint,
    require_same_run,
)
from rlhf_forge.callbacks.guard import DivergenceGuard
from rlhf_forge.callbacks.micro_batch import MicroBatchFinder
from rlhf_forge.callbacks.peak_memory import PeakMemory
from rlhf_forge.callbacks.predictions import PREDICTIONS
from rlhf_forge.callbacks.stopping import CleanStop
from rlhf_forge.callbacks.strategy import SharedRows
from rlhf_forge.callbacks.watch import Watch
from rlhf_forge.errors import UserError
from rlhf_forge.fingerprint import has_finished
from rlhf_forge.modules.calibration import require_enough_held_out
from rlhf_forge.modules.roles import expected_of
from rlhf_forge.parsed_stage import ParsedStage
from rlhf_forge.parsing import first_line
from rlhf_forge.planning.device import memory_available
from rlhf_forge.planning.look import look_at, require_fits
from rlhf_forge.planning.telling import hint_of, verdict_line, where_of
from rlhf_forge.preflight import (
    fitting_parents,
    look_at_card,
    require_place,
    require_watchable,
)
from rlhf_forge.processes import processes_of, require_startable
from rlhf_forge.run_folder import find_checkpoint, last_checkpoint, set_aside
from rlhf_forge.stage_config import (
    class_at,
    length_of,
    micro_batch_of,
    missing_parents,
    one_line,
    parents_of,
)
from rlhf_forge.watch_settings import WatchSettings

# Said by us, on the right stream.
QUIETLY: dict[str, dict[str, bool]] = {
    "fit": {},
    "validate": {"verbose": False},
    "test": {"verbose": False},
    "predict": {"return_predictions": False},
}


class ForgeCLI(ParsedStage):
    """A parsed stage that runs, into lightning_logs/<run>/<name>."""

    @override
    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        config = self.config
        for mistake in self.mistakes():
            raise mistake
        arguments = config.model.init_args
        for mistake in missing_parents(arguments, stage=self.stage, command_of=self.command_of):
            raise mistake
        for mistake in self.misfits():
            raise mistake
        checkpoint = self._find_checkpoint()
        if checkpoint is None and config.ckpt_path == "last":
            _tell(f"{self.folder}: stopped before its first checkpoint, so it starts anew")
        config.ckpt_path = None if checkpoint is None else str(checkpoint)
        if self.word == "predict":
            config.data.kind = class_at(config.model.class_path).predicts

    @override
    def instantiate_classes(self) -> None:
        with one_line(self.config.as_dict()):
            LightningCLI.instantiate_classes(self)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self.config_init.trainer
        if self.word != "fit":
            self.save_config_callback = None  # the run's config.yaml is that of its training
        settings: dict[str, Any] = {"default_root_dir": str(self.folder)}
        settings["max_epochs"] = 1
        settings["limit_train_batches"] = length_of(self.config.model)
        plugins = given.plugins or []
        settings["plugins"] = [
            *(plugins if isinstance(plugins, list) else [plugins]),
            AtomicCheckpointIO(),
        ]
        named = given.callbacks or []
        named = named if isinstance(named, list) else [named]
        # A config may bring its own bar and its own checkpoints.
        if given.enable_progress_bar is False or any(isinstance(c, ProgressBar) for c in named):
            own = self.trainer_defaults["callbacks"]
            self.trainer_defaults["callbacks"] = [c for c in own if not isinstance(c, ProgressBar)]
        if any(isinstance(c, Checkpoint) for c in named):
            settings["enable_checkpointing"] = True
        if processes_of(given) > 1:
            settings["strategy"] = SharedRows()
        if given.logger is None:
            settings["logger"] = TensorBoardLogger(
                self.folder, name="", version="", default_hp_metric=False
            )
        try:
            return super().instantiate_trainer(**settings, **kwargs)
        except (RuntimeError, TypeError, ValueError, MisconfigurationException) as error:
            raise UserError(f"trainer: {first_line(error)}") from error

    def run(self) -> None:
        """Do what the word says.

        Raises:
            UserError: For a mistake that shows only now.
        """
        require_startable(self.config.trainer, [self.word, *self.typed], sys.argv[1:])
        if self.word == "fit":
            if self.finished_before():
                return
            self.before_fit()
        try:
            found = getattr(self.trainer, self.word)(
                self.model,
                datamodule=self.datamodule,
                ckpt_path=self.config.ckpt_path,
                **QUIETLY[self.word],
            )
        except UserError:
            self._end_the_others()
            raise
        except MisconfigurationException as error:
            raise UserError(f"trainer: {first_line(error)}") from error
        except SIGTERMException:
            self._say_how_to_go_on()
            raise SystemExit(143) from None
        except SystemExit:
            # What Lightning makes of Ctrl-C.
            self._say_how_to_go_on()
            raise KeyboardInterrupt from None
        self.say(found)

    def _find_checkpoint(self) -> Path | None:
        try:
            return find_checkpoint(self.config.ckpt_path, self.folder, word=self.word)
        except UserError:
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                raise
            return None  # the first process has looked, and may have moved the folder aside since

    def finished_before(self) -> bool:
        """Whether the run that is to go on from its last checkpoint is at its end; says so."""
        artefact = self.folder / "artefact"
        own = str(last_checkpoint(self.config.run, self.name))
        if self.config.ckpt_path != own or not has_finished(artefact, self.fingerprint):
            return False
        sys.stderr.write(f"{self.name}: finished before, not run again ({artefact})\n")
        return True

    def before_fit(self) -> None:
        """Keep what is there, and add the callbacks that need the parsed config."""
        config, checkpoint = self.config, self.config.ckpt_path
        if checkpoint is not None:
            require_same_run(Path(checkpoint), self.dependencies)
        if config.trainer.fast_dev_run:
            return
        require_place(self.folder)
        own = checkpoint is not None and (
            self.folder.resolve() in Path(checkpoint).resolve().parents
        )
        if not own:
            self._require_all_it_needs()  # before anything is moved
        planned = self._planned()
        if not own:
            rank_zero_only(set_aside)(self.folder)
        best = BestCheckpoint(kept) if (kept := self.kept_best()) else None
        every, keep = config.checkpoint_every, config.keep_checkpoints
        self.trainer.callbacks += [  # type: ignore[attr-defined]
            DivergenceGuard(),  # before what is written down; the finder behind the watch's judge
            *([] if config.watch is None else [Watch(WatchSettings(**config.watch))]),
            *([MicroBatchFinder()] if micro_batch_of(config.model) == "auto" else []),
            *([] if best is None else [best]),
            IterationCheckpoint(every, keep, self.dependencies),
            ArtefactWriter(self.fingerprint, best),
            CleanStop(),
            *([] if planned is None else [PeakMemory(planned)]),
        ]

    def _planned(self) -> dict[str, int] | None:
        """Tell what memory the run will take, in bytes too; None for a base of unknown shape.

        Raises:
            UserError: If it cannot fit.
        """
        self.datamodule.setup("fit")
        try:
            look = look_at(self.config, stage=self.stage, data=self.datamodule)
        except UserError as unknown:
            _tell(f"memory: not planned: {unknown}")
            return None
        # Not look.device: a second GPU may be asked for, and the first be full.
        available = memory_available(self.trainer.strategy.root_device)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            # Alone: of several one that refused would let the others wait for it.
            require_fits(look.least, look.plan, available, lambda: hint_of(look, available))
        _tell(f"memory: {verdict_line(look.plan, available, where_of(look))}")
        return look.plan.comparable(cuda=look.setup.cuda)

    def _require_all_it_needs(self) -> None:
        """Refuse data and parents that the run could not use.

        Raises:
            UserError: For the first that is found.
        """
        self.datamodule.setup("fit")
        if self.stage == "reward":
            require_enough_held_out(len(self.datamodule.held_out))
        backbone = self.model.backbone_config
        arguments = self.config.model.init_args
        parents = parents_of(arguments)
        expected = expected_of(backbone, self.datamodule.template)
        _, misfits = fitting_parents(parents, backbone.lora, expected)
        for misfit in misfits:
            raise misfit
        if self.config.watch is not None:
            prompts = len(self.datamodule.held_out)
            require_watchable(self.config.watch.judge, prompts, parents.get("sft"), expected)
        told = look_at_card(parents, accepted=arguments.get("accept_bad_card"))
        if told is not None:
            _tell(told)

    @rank_zero_only
    def say(self, found: Any) -> None:
        """Metrics to stdout; where things are to stderr."""
        if self.word == "predict":
            sys.stderr.write(f"predictions: {self.folder / PREDICTIONS}\n")
        elif self.word != "fit":
            lines = [
                f"{name} {value:.6g}\n" for metrics in found for name, value in metrics.items()
            ]
            sys.stdout.write("".join(lines))
        elif not self.config.trainer.fast_dev_run:
            sys.stderr.write(f"artefact: {self.folder / 'artefact'}\nlogs: {self.folder}\n")

    @rank_zero_only
    def say_next(self) -> None:
        """Say what to type next."""
        if self.config.trainer.fast_dev_run:
            return
        sys.stderr.writelines(f"{line}\n" for line in self.following(self.datamodule.gives))

    def _end_the_others(self) -> None:
        """End the processes that Lightning has started: they would wait for this one."""
        launcher = self.trainer.strategy.launcher
        if launcher is not None:
            launcher.kill(signal.SIGKILL)

    @rank_zero_only
    def _say_how_to_go_on(self) -> None:
        last = last_checkpoint(self.config.run, self.name)
        if self.word == "fit" and last.is_file():
            sys.stderr.write(f"hint: the same with --ckpt_path last goes on from {last}\n")


@rank_zero_only
def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")


def run_stage(word: str, arguments: Sequence[str]) -> ForgeCLI:
    """Run one of Lightning's subcommands.

    Args:
        word: fit, validate, test or predict.
        arguments: What stands behind it.

    Raises:
        UserError: For a mistake in the command line, the config, the data or the artefacts.
    """
    cli = ForgeCLI(word, arguments)
    cli.run()
    return cli
