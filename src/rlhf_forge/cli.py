"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's command line, set up for RLHF."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from rlhf_forge.callbacks.artefact_writer import ArtefactWriter
from rlhf_forge.callbacks.checkpoints import AtomicCheckpointIO, IterationCheckpoint
from rlhf_forge.callbacks.config_writer import ConfigWriter
from rlhf_forge.callbacks.defaults import quiet, trainer_defaults
from rlhf_forge.callbacks.predictions import PREDICTIONS
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.errors import UserError
from rlhf_forge.fingerprint import fingerprint_of, has_finished
from rlhf_forge.parsing import first_line
from rlhf_forge.run_folder import find_checkpoint, last_checkpoint, set_aside, stage_folder
from rlhf_forge.stage_config import (
    STAGE_CLASSES,
    base_of,
    class_at,
    command_for,
    fill_in_parents,
    found_configs,
    kind_of,
    length_of,
    one_line,
    refuse_trainer_keys,
    require_parents,
    require_whole_minibatches,
    seed_of,
)
from rlhf_forge.stage_parser import StageParser, add_class_arguments, add_run_arguments

# The word of a command line that is parsed and not run.
PARSE_ONLY = "parse"
# Said by us, on the right stream.
QUIETLY: dict[str, dict[str, bool]] = {
    "fit": {},
    "validate": {"verbose": False},
    "test": {"verbose": False},
    "predict": {"return_predictions": False},
}
AFTER = {"sft": "reward", "reward": "ppo"}


class ForgeCLI(LightningCLI):
    """Registers and links; a run lands in lightning_logs/<run>/<stage>.

    Args:
        word: fit, validate, test or predict.
        arguments: What stands behind it.
        options: Of LightningCLI.
    """

    def __init__(self, word: str, arguments: Sequence[str], **options: Any) -> None:
        self.word = word
        self.typed = list(arguments)
        # Lightning warns if it is given arguments while there are some on the real command line.
        argv, sys.argv = sys.argv, sys.argv[:1]
        try:
            super().__init__(**options)
        finally:
            sys.argv = argv

    @override
    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_run_arguments(parser, self.word)

    @override
    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        defaults = {k: v for k, v in self.trainer_defaults.items() if k != "callbacks"}
        add_class_arguments(parser, PreferenceDataModule, defaults)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=seed_of)
        parser.link_arguments("model", "data.tokenizer", compute_fn=base_of)
        parser.link_arguments("model", "data.kind", compute_fn=kind_of)

    @property
    def stage(self) -> str:
        """sft, reward or ppo."""
        stage: str = class_at(self.config.model.class_path).stage
        return stage

    @property
    def fingerprint(self) -> str:
        """What the stage depends on; see `fingerprint_of`."""
        return fingerprint_of(self.config.as_dict())

    @property
    def folder(self) -> Path:
        """Where this run's stage lives."""
        return stage_folder(self.config.run, self.stage)

    @override
    def before_instantiate_classes(self) -> None:
        config = self.config
        if config.checkpoint_every < 1:
            raise UserError(f"checkpoint_every: must be 1 or more, got {config.checkpoint_every}")
        refuse_trainer_keys(config.trainer)
        require_whole_minibatches(config.data.batch_size, config.model.init_args)
        fill_in_parents(config.model.init_args, config.run)
        if self.word == PARSE_ONLY:
            return
        commands = {stage: self.command_of(stage) for stage in ("sft", "reward")}
        require_parents(config.model.init_args, stage=self.stage, commands=commands)
        checkpoint = find_checkpoint(config.ckpt_path, self.folder, word=self.word)
        config.ckpt_path = None if checkpoint is None else str(checkpoint)
        if self.word == "predict":
            config.data.kind = class_at(config.model.class_path).predicts

    @override
    def instantiate_classes(self) -> None:
        with one_line(self.config.as_dict()):
            super().instantiate_classes()

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
        if given.logger is None:
            settings["logger"] = TensorBoardLogger(
                self.folder, name="", version="", default_hp_metric=False
            )
        try:
            return super().instantiate_trainer(**settings, **kwargs)
        except (ValueError, MisconfigurationException) as error:
            raise UserError(f"trainer: {first_line(error)}") from error

    def run(self) -> None:
        """Do what the word says.

        Raises:
            UserError: For a mistake that shows only now.
        """
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

    def finished_before(self) -> bool:
        """Whether the run that is to go on from its last checkpoint is at its end; says so."""
        artefact = self.folder / "artefact"
        own = str(last_checkpoint(self.config.run, self.stage))
        if self.config.ckpt_path != own or not has_finished(artefact, self.fingerprint):
            return False
        sys.stderr.write(f"{self.stage}: finished before, not run again ({artefact})\n")
        return True

    def before_fit(self) -> None:
        """Keep what is there, and add the callbacks that need the parsed config."""
        config = self.config
        if config.trainer.fast_dev_run:
            return
        if config.ckpt_path is None:
            # A mistake in the data is found before anything is moved.
            self.datamodule.setup("fit")
            rank_zero_only(set_aside)(self.folder)
        self.trainer.callbacks += [  # type: ignore[attr-defined]
            IterationCheckpoint(config.checkpoint_every, self.fingerprint),
            ArtefactWriter(self.fingerprint),
        ]

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
        chat = f"python -m rlhf_forge chat {self.folder / 'artefact'}"
        following = AFTER.get(self.stage)
        sys.stderr.write(f"next: {self.command_of(following) if following else chat}\n")

    def command_of(self, stage: str) -> str:
        """What to type to train another stage of this run."""
        return command_for(stage, self.typed, run=self.config.run)

    @rank_zero_only
    def _say_how_to_go_on(self) -> None:
        last = last_checkpoint(self.config.run, self.stage)
        if self.word == "fit" and last.is_file():
            sys.stderr.write(f"hint: the same with --ckpt_path last goes on from {last}\n")


class ParsedStage(ForgeCLI):
    """A stage's config as `fit` would see it, with nothing instantiated and nothing run."""

    @override
    def instantiate_classes(self) -> None:
        pass

    def module(self) -> Any:
        """The stage's module, without weights."""
        with one_line(self.config.as_dict()):
            return self.parser.instantiate(self.config).model

    def data(self) -> PreferenceDataModule:
        """The stage's data, read and tokenized."""
        data = PreferenceDataModule(**self.config.data.as_dict())
        data.setup("validate")
        return data


def run_stage(word: str, arguments: Sequence[str]) -> ForgeCLI:
    """Run one of Lightning's subcommands.

    Args:
        word: fit, validate, test or predict.
        arguments: What stands behind it.

    Raises:
        UserError: For a mistake in the command line, the config, the data or the artefacts.
    """
    cli = ForgeCLI(word, arguments, **_options(arguments))
    cli.run()
    return cli


def parsed_stage(arguments: Sequence[str]) -> ParsedStage:
    """Parse a stage's command line without running it.

    Raises:
        UserError: For a mistake in the command line or the config.
    """
    return ParsedStage(PARSE_ONLY, arguments, **_options(arguments))


def _options(arguments: Sequence[str]) -> dict[str, Any]:
    """What LightningCLI is set up with; the stages' names are known afterwards."""
    quiet()
    for module in STAGE_CLASSES.values():
        import_module(module)
    return {
        "model_class": LightningModule,
        "datamodule_class": PreferenceDataModule,
        "subclass_mode_model": True,
        "args": found_configs(arguments),
        "run": False,  # one parser in place of four; `run` calls the Trainer
        "parser_class": StageParser,
        "auto_configure_optimizers": False,
        "save_config_callback": ConfigWriter,
        "trainer_defaults": trainer_defaults(),
    }
