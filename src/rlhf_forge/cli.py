"""``fit``, ``validate``, ``test`` and ``predict``: Lightning's command line, set up for RLHF."""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from typing_extensions import override

from rlhf_forge.callbacks.artefact_writer import ArtefactWriter
from rlhf_forge.callbacks.checkpoints import LAST, AtomicCheckpointIO, IterationCheckpoint
from rlhf_forge.callbacks.predictions import PredictionWriter
from rlhf_forge.callbacks.progress import ForgeProgressBar
from rlhf_forge.callbacks.reward_metrics import RewardMetrics
from rlhf_forge.callbacks.samples import SampleWriter
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.errors import UserError
from rlhf_forge.fingerprint import fingerprint_of
from rlhf_forge.parsing import known_keys, mistake
from rlhf_forge.presets import find_config

LOGS = Path("lightning_logs")
# A config says `class_path: SFTModule`: importing these makes the bare names known.
STAGE_MODULES = ("sft", "reward", "ppo")
# Set by us, from total_steps or total_iterations: a run is one virtual epoch.
REFUSED = ("max_steps", "max_epochs", "min_steps", "min_epochs", "limit_train_batches")
UNSET = (None, -1)


class ForgeParser(LightningArgumentParser):
    """Lightning's parser with `UserError` in place of usage and exit."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise mistake(message, known_keys(self)) from ex


class ForgeCLI(LightningCLI):
    """Registers and links; a run lands in lightning_logs/<run>/<stage>."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--run", type=str, default="default", help="name of the run: lightning_logs/<run>"
        )
        parser.add_argument(
            "--checkpoint_every", type=int, default=50, help="iterations between checkpoints"
        )
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)
        parser.link_arguments("model", "data.tokenizer", compute_fn=_base_of)
        parser.link_arguments("model", "data.kind", compute_fn=_kind_of)

    @property
    def stage_config(self) -> Namespace:
        """The parsed config of the running subcommand."""
        config: Namespace = self.config[self.subcommand] if self.subcommand else self.config
        return config

    @property
    def fingerprint(self) -> str:
        """What the stage depends on; see `fingerprint_of`."""
        return fingerprint_of(self.stage_config.as_dict())

    @property
    def folder(self) -> Path:
        """Where this run's stage lives."""
        return LOGS / self.stage_config.run / _module_class(self.stage_config.model).stage

    @override
    def before_instantiate_classes(self) -> None:
        config = self.stage_config
        for key in REFUSED:
            if config.trainer.get(key) not in UNSET:
                raise UserError(
                    f"trainer.{key}: set by rlhf_forge, got {config.trainer[key]}",
                    hint="set model.init_args.total_steps (total_iterations in PPO) instead",
                )
        if config.trainer.get("accumulate_grad_batches", 1) != 1:
            raise UserError(
                "trainer.accumulate_grad_batches: must be 1: one batch is one optimiser step",
                hint="micro-batches are cut inside: lower model.init_args.micro_batch_tokens",
            )
        self._fill_in_parents(config)
        if self.subcommand == "predict":
            config.data.kind = _module_class(config.model).predicts
        if self.subcommand in {"validate", "test", "predict"} and config.ckpt_path is None:
            config.ckpt_path = str(self._last_checkpoint())

    def _fill_in_parents(self, config: Namespace) -> None:
        arguments = config.model.init_args
        for parent in ("sft", "reward"):
            if parent in arguments and arguments[parent] is None:
                arguments[parent] = str(LOGS / config.run / parent / "artefact")

    def _last_checkpoint(self) -> Path:
        path = self.folder / "checkpoints" / LAST
        if not path.is_file():
            raise UserError(
                f"{self.subcommand}: nothing trained yet: no {path}",
                hint="run fit with this config first, or give --ckpt_path",
            )
        return path

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.stage_config
        settings: dict[str, Any] = {"default_root_dir": str(self.folder)}
        settings["max_epochs"] = 1
        settings["limit_train_batches"] = _length_of(config.model)
        settings["plugins"] = [*(config.trainer.plugins or []), AtomicCheckpointIO()]
        if config.trainer.logger is None:
            settings["logger"] = TensorBoardLogger(
                self.folder, name="", version="", default_hp_metric=False
            )
        return super().instantiate_trainer(**settings, **kwargs)

    def before_fit(self) -> None:
        """Callbacks that need the parsed config."""
        config = self.stage_config
        self.trainer.callbacks.append(IterationCheckpoint(every=config.checkpoint_every))  # type: ignore[attr-defined]
        self.trainer.callbacks.append(ArtefactWriter(self.fingerprint))  # type: ignore[attr-defined]

    def after_fit(self) -> None:
        """Say where things are and what to type next."""
        stage = _module_class(self.stage_config.model).stage
        run = self.stage_config.run
        sys.stderr.write(f"artefact: {self.folder / 'artefact'}\nlogs: {self.folder}\n")
        sys.stderr.write(f"next: {NEXT[stage].format(run=run, folder=self.folder)}\n")


NEXT = {
    "sft": "python -m rlhf_forge fit --config reward.yaml --run {run}",
    "reward": "python -m rlhf_forge fit --config ppo.yaml --run {run}",
    "ppo": "python -m rlhf_forge chat {folder}/artefact",
}


def run_stage(word: str, arguments: Sequence[str]) -> ForgeCLI:
    """Run one of Lightning's subcommands.

    Raises:
        UserError: For a mistake in the command line, the config, the data or the artefacts.
    """
    return _built(ForgeCLI, [word, *_found_configs(arguments)], run=True)


class ParsedStage(ForgeCLI):
    """A stage's config as `fit` would see it, with nothing instantiated and nothing run."""

    @override
    def instantiate_classes(self) -> None:
        pass

    def module(self) -> Any:
        """The stage's module, without weights."""
        return self.parser.instantiate_classes(self.stage_config).model

    def data(self) -> PreferenceDataModule:
        """The stage's data, read and tokenized."""
        data = PreferenceDataModule(**self.stage_config.data.as_dict())
        data.setup("fit")
        return data


def parsed_stage(arguments: Sequence[str]) -> ParsedStage:
    """Parse a stage's command line without running it.

    Raises:
        UserError: For a mistake in the command line or the config.
    """
    return _built(ParsedStage, _found_configs(arguments), run=False)


def stage_of(path: Path) -> str | None:
    """The stage that a config declares by its model's class; None if it has no model."""
    import yaml

    config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    class_path = config.get("model", {}).get("class_path")
    if class_path is None:
        return None
    stage: str = _module_class(Namespace(class_path=class_path)).stage
    return stage


CLI = TypeVar("CLI", bound=ForgeCLI)


def _built(kind: type[CLI], arguments: list[str], *, run: bool) -> CLI:
    _quiet()
    for name in STAGE_MODULES:
        import_module(f"rlhf_forge.modules.{name}")
    argv, sys.argv = sys.argv, [sys.argv[0]]
    try:
        return kind(
            LightningModule,
            PreferenceDataModule,
            subclass_mode_model=True,
            args=arguments,
            run=run,
            seed_everything_default=0,
            parser_class=ForgeParser,
            parser_kwargs={"default_env": False},
            save_config_kwargs={"overwrite": True},
            trainer_defaults=_trainer_defaults(),
        )
    finally:
        sys.argv = argv


def _trainer_defaults() -> dict[str, Any]:
    return {
        "precision": "32-true",
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "use_distributed_sampler": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "check_val_every_n_epoch": None,
        "callbacks": [ForgeProgressBar(), PredictionWriter(), RewardMetrics(), SampleWriter()],
    }


def _found_configs(arguments: Sequence[str]) -> list[str]:
    """The arguments with the value of every --config looked up."""
    found: list[str] = []
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        if previous in {"--config", "-c"}:
            found.append(str(find_config(argument)))
        elif argument.startswith("--config="):
            found.append(f"--config={find_config(argument.removeprefix('--config='))}")
        else:
            found.append(argument)
    return found


def _quiet() -> None:
    """Nothing on the screen that a person cannot act on."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", module=r"torch\.utils\.data\..*")


def _module_class(model: Namespace) -> Any:
    module, _, name = model.class_path.rpartition(".")
    return getattr(import_module(module), name)


def _base_of(model: Namespace) -> str:
    path: str = model.init_args.backbone.path
    return path


def _kind_of(model: Namespace) -> str:
    kind: str = _module_class(model).data_kind
    return kind


def _length_of(model: Namespace) -> int:
    arguments = model.init_args
    length: int = arguments.get("total_steps") or arguments.get("total_iterations")
    return length
