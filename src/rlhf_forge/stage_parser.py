"""The parser of a stage: mistakes in one line, and a help that begins with our keys."""

import dataclasses
import inspect
import re
from argparse import SUPPRESS, Action
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, get_args

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from rlhf_forge.parsing import known_keys, mistake
from rlhf_forge.stage_config import STAGE_CLASSES, Best, class_at
from rlhf_forge.watch_settings import WatchSettings
from rlhf_forge.words import DRY_RUN, STAGES

TITLES = {
    "data": "Data",
    "model": "The stage: class_path is SFTModule, RewardModule, DPOModule or PPOModule",
    "trainer": "Lightning's Trainer; length, precision and folder of a run are not set here",
}
MODEL_HELP = "--model.help CLASS lists the keys of one, which go under --model.init_args."


class StageHelp(DefaultHelpFormatter):
    """Without the pages of subclasses that the environment happens to hold."""

    @override
    def _get_help_string(self, action: Action) -> str:
        told = super()._get_help_string(action)
        return re.sub(r", known subclasses: [^)]*", "", told)

    @override
    def _format_action(self, action: Action) -> str:
        is_listing = any(text.endswith(".help") for text in action.option_strings)
        return "" if is_listing else super()._format_action(action)


class NoKey(Action):
    """An option that is taken before the parser sees it: here it is only told of."""

    def __init__(self, option_strings: list[str], dest: str) -> None:
        help_text = "say whether it would start and what it would write; writes nothing"
        super().__init__(option_strings, SUPPRESS, nargs=0, default=SUPPRESS, help=help_text)


class StageParser(LightningArgumentParser):
    """Lightning's parser with `UserError` in place of usage and exit."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **{"formatter_class": StageHelp, **options})

    @override
    def parse_args(self, args: Any = None, *more: Any, **options: Any) -> Any:
        # jsonargparse 4.53 hands a null of a class's key on to the class's parser as "None".
        if args is not None:
            args = [re.sub("=None$", "=null", text) for text in args]
        return super().parse_args(args, *more, **options)

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        known = known_keys(self)
        if "run" in known:  # the whole parser, not that of a class within
            known = [*known, *STAGE_CLASSES, *model_keys()]
        raise mistake(message, ex, known) from ex


def add_run_arguments(parser: LightningArgumentParser, word: str) -> None:
    """Add the keys of a run as a whole; ``word`` stands in the usage."""
    parser.description = STAGES.get(word, "")
    parser.usage = f"python -m rlhf_forge {word} --config FILE [--KEY VALUE ...]"
    parser.add_argument(
        "--run", type=str, default="default", help="name of the run: lightning_logs/<run>"
    )
    parser.add_argument(
        "--name",
        type=str | None,
        default=None,
        help="name of the stage in the run: lightning_logs/<run>/<name>; none: sft, reward, dpo or "
        "ppo. So a run may hold several policies from one SFT and one reward model",
    )
    if word == "fit":
        parser.add_argument(DRY_RUN, action=NoKey)
    parser.add_argument("--seed_everything", type=int, default=0, help="seed of training")
    parser.add_argument(
        "--checkpoint_every", type=int, default=50, help="iterations between checkpoints"
    )
    parser.add_argument(
        "--keep_checkpoints", type=int, default=2, help="checkpoints that stay, the newest ones"
    )
    parser.add_argument(
        "--keep_best",
        type=Best | None,
        default=None,
        help="keep the best state as well, and write the artefact from it: "
        "{metric: judge/score, mode: max}; none: the artefact is the last state",
    )
    parser.add_argument(
        "--watch",
        type=WatchSettings | None,
        default=None,
        help="look at PPO on held-out prompts with a judge that it never optimises against: "
        "{judge: module:function or ARTEFACT}; none: nobody looks. The artefact is then the best "
        "state by the judge, unless keep_best or watch.keep says otherwise",
    )
    parser.add_argument(
        "--ckpt_path",
        type=str | None,
        default=None,
        help="checkpoint to go on from, or to use; last: the newest; auto: that, or a "
        "new start; best: by keep_best",
    )


def add_class_arguments(
    parser: LightningArgumentParser, data: Callable[..., Any], defaults: dict[str, Any]
) -> None:
    """Add the keys of the data, the model and the Trainer.

    Args:
        parser: Of a stage.
        data: The data module.
        defaults: Of the Trainer.
    """
    parser.add_lightning_class_args(data, "data")
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(Trainer, "trainer")
    for key, title in TITLES.items():
        assert parser.groups is not None
        parser.groups[key].title = title
    next(action for action in parser._actions if action.dest == "model").help = MODEL_HELP
    parser.set_defaults({f"trainer.{key}": value for key, value in defaults.items()})


def model_keys() -> list[str]:
    """All keys that a stage's module takes."""
    places = (_keys_of(class_at(name), "model.init_args") for name in STAGE_CLASSES)
    return list(dict.fromkeys(key for keys in places for key in keys))


def _keys_of(kind: Callable[..., Any], place: str) -> Iterator[str]:
    for name, parameter in inspect.signature(kind).parameters.items():
        yield f"{place}.{name}"
        for group in (parameter.annotation, *get_args(parameter.annotation)):
            if isinstance(group, type) and dataclasses.is_dataclass(group):
                yield from _keys_of(group, f"{place}.{name}")
