"""The config of a stage as parsed, with nothing instantiated and nothing run."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from typing_extensions import override

from rlhf_forge.backbone.loading import context_of
from rlhf_forge.callbacks.config_writer import ConfigWriter
from rlhf_forge.callbacks.defaults import quiet, trainer_defaults
from rlhf_forge.config_files import command_for, found_configs
from rlhf_forge.data.format import Kind
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.report_card import read_report
from rlhf_forge.fingerprint import dependencies_of, fingerprint_of
from rlhf_forge.run_folder import stage_folder
from rlhf_forge.stage_config import (
    STAGE_CLASSES,
    Best,
    base_of,
    class_at,
    fill_in_parents,
    kind_of,
    mistakes_in,
    mistakes_in_lengths,
    one_line,
    seed_of,
)
from rlhf_forge.stage_parser import StageParser, add_class_arguments, add_run_arguments
from rlhf_forge.watch_settings import WatchSettings

FORGE = "python -m rlhf_forge"
AFTER = {"sft": "reward", "reward": "ppo"}
# PPO learns from responses, and a reward model is scaled on some.
SAMPLING_STAGES = frozenset({"reward", "ppo"})


class ParsedStage(LightningCLI):
    """Registers and links; what follows from others is filled in.

    Args:
        word: fit, validate, test or predict: what the command line began with.
        arguments: What stood behind it.

    Raises:
        UserError: For a mistake in the command line, or a file that cannot be parsed.
    """

    def __init__(self, word: str, arguments: Sequence[str]) -> None:
        self.word = word
        self.typed = list(arguments)
        quiet()
        for module in STAGE_CLASSES.values():  # their names are known afterwards
            import_module(module)
        # Lightning warns if it is given arguments while there are some on the real command line.
        argv, sys.argv = sys.argv, sys.argv[:1]
        try:
            super().__init__(
                LightningModule,
                PreferenceDataModule,
                save_config_callback=ConfigWriter,
                trainer_defaults=trainer_defaults(),
                parser_class=StageParser,
                subclass_mode_model=True,
                args=found_configs(arguments),
                run=False,  # one parser in place of four
                auto_configure_optimizers=False,
            )
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

    @override
    def before_instantiate_classes(self) -> None:
        fill_in_parents(self.config.model.init_args, self.config.run)

    @override
    def instantiate_classes(self) -> None:
        pass

    @property
    def stage(self) -> str:
        """sft, reward, dpo or ppo."""
        stage: str = class_at(self.config.model.class_path).stage
        return stage

    @property
    def name(self) -> str:
        """What the stage is called in its run."""
        return str(self.config.name or self.stage)

    @cached_property
    def dependencies(self) -> dict[str, str]:
        """What the stage depends on, as it is when first asked for; see `dependencies_of`."""
        return dependencies_of(self.config.as_dict())

    @property
    def fingerprint(self) -> str:
        """The same in one string."""
        return fingerprint_of(self.dependencies)

    @property
    def folder(self) -> Path:
        """Where this run's stage lives."""
        return stage_folder(self.config.run, self.name)

    def kept_best(self) -> Best | None:
        """By what the best state is kept: keep_best, or else the watch's judge; None: it is not."""
        if self.config.keep_best is not None:
            return Best(**self.config.keep_best)
        watch = None if self.config.watch is None else WatchSettings(**self.config.watch)
        return None if watch is None or watch.kept_by is None else Best(watch.kept_by)

    def mistakes(self) -> Iterator[UserError]:
        """What the config says and may not."""
        return mistakes_in(self.config)

    def misfits(self) -> Iterator[UserError]:
        """What has no room in the base; its config must lie here, or the hub be in reach."""
        context = context_of(self.config.model.init_args.backbone.path)
        samples = self.stage in SAMPLING_STAGES or self.word == "predict"
        return mistakes_in_lengths(self.config, context=context, samples=samples)

    def command_of(self, stage: str, *, data_instead: str | None = None) -> str:
        """What to type to train another stage of this run; see `command_for`."""
        return command_for(stage, self.typed, run=self.config.run, data_instead=data_instead)

    def following(self, gives: Kind | None) -> Iterator[str]:
        """What to type once this stage is trained, in lines; what stands in the way of it first.

        Args:
            gives: What the stage's data holds, if that is known: a pair makes a demonstration, and
                a demonstration no pair.

        Raises:
            UserError: If the report card of a reward model is broken.
        """
        artefact, after = self.folder / "artefact", AFTER.get(self.stage)
        if after is None:
            yield f"next: {FORGE} chat {artefact}"
            return
        card = read_report(artefact) if self.stage == "reward" else None
        word = "next"
        if card is not None and card.verdict == "bad":
            yield "PPO refuses a bad report card unless model.init_args.accept_bad_card is true:"
            yield "better pairs, or more of them, or more steps first"
            data = self.config.data
            named = [f"--map.{key}={column}" for key, column in (data.map or {}).items()]
            named += [] if data.format is None else [f"--format={data.format}"]
            yield f"next: {FORGE} inspect-data {shlex.join([data.path, *named])}"
            word = "then"
        instead = "PAIRS" if after == "reward" and gives not in {None, "pairs"} else None
        yield f"{word}: {self.command_of(after, data_instead=instead)}"

    def module(self) -> Any:
        """The stage's module, without weights."""
        with one_line(self.config.as_dict()):
            return self.parser.instantiate(self.config).model

    def data(self, kind: Kind | None = None) -> PreferenceDataModule:
        """The stage's data, read and tokenized, as its own kind if none is given."""
        settings = self.config.data.as_dict()
        data = PreferenceDataModule(**settings | ({} if kind is None else {"kind": kind}))
        data.setup("validate")
        return data


def parsed_stage(arguments: Sequence[str]) -> ParsedStage:
    """Parse the command line of a `fit` without running it.

    Raises:
        UserError: For a mistake in the command line or the config.
    """
    parsed = ParsedStage("fit", arguments)
    for mistake in parsed.mistakes():
        raise mistake
    return parsed
