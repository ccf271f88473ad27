"""What the config of a stage may not say, and what is filled in where it is silent."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from rlhf_forge.artefact import MANIFEST
from rlhf_forge.errors import UserError
from rlhf_forge.parsing import first_line, innermost
from rlhf_forge.presets import find_config
from rlhf_forge.run_folder import stage_folder
from rlhf_forge.words import nearest

# A config may name these classes without their module.
STAGE_CLASSES = {
    "SFTModule": "rlhf_forge.modules.sft",
    "RewardModule": "rlhf_forge.modules.reward",
    "PPOModule": "rlhf_forge.modules.ppo",
}
# A run is one virtual epoch, as long as total_steps or total_iterations says.
LENGTH = "set model.init_args.total_steps (total_iterations in PPO) instead"
# Keys of the Trainer that would break what the stages promise: legal values, and the way out.
TRAINER_KEYS: dict[str, tuple[tuple[object, ...], str]] = {
    **dict.fromkeys(
        ("max_steps", "max_epochs", "min_steps", "min_epochs", "limit_train_batches"),
        ((None, -1), LENGTH),
    ),
    "accumulate_grad_batches": (
        (1,),
        "one batch is one optimiser step; for memory lower micro_batch_tokens",
    ),
    "gradient_clip_val": ((None,), "set max_grad_norm of the stage's optimizer or updates instead"),
    "precision": (("32-true", "32", 32), "set model.init_args.backbone.precision instead"),
    "default_root_dir": ((None,), "set run: the folder is lightning_logs/<run>/<stage>"),
}
# Keys that follow from others, and from which.
LINKED = {
    "model.init_args.seed": "seed_everything",
    "data.tokenizer": "model.init_args.backbone.path",
    "data.kind": "the class of the model",
}
PARENTS = ("sft", "reward")


def found_configs(arguments: Sequence[str]) -> list[str]:
    """The arguments with the file that each --config means.

    Raises:
        UserError: If there is no such file, or it is not YAML, or sets what follows from others.
    """
    found: list[str] = []
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        if previous in {"--config", "-c"}:
            found.append(str(_checked(find_config(argument))))
        elif argument.startswith("--config="):
            found.append(f"--config={_checked(find_config(argument.removeprefix('--config=')))}")
        else:
            refuse_linked(argument.removeprefix("--").split("=")[0])
            found.append(argument)
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UserError: If it holds none; with file and line.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UserError(f"{path}{where}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path}: not YAML: not text in UTF-8") from None
    if not isinstance(config, dict):
        kind = "nothing" if config is None else f"a {type(config).__name__}"
        raise UserError(f"{path}: holds {kind}, where a config has keys: model, data, run")
    return config


def refuse_linked(key: str) -> None:
    """Refuse a key that follows from others: the other would beat it without a word.

    Raises:
        UserError: Naming what it follows from.
    """
    whole = re.sub(r"^model\.seed$", "model.init_args.seed", key)
    if whole in LINKED:
        raise UserError(f"{key}: follows from {LINKED[whole]}, so it cannot be set by itself")


def refuse_trainer_keys(trainer: Mapping[str, Any]) -> None:
    """Refuse what the stages decide themselves.

    Raises:
        UserError: Naming the key, and what to set instead.
    """
    for key, (legal, way_out) in TRAINER_KEYS.items():
        value = trainer.get(key)
        if value not in legal:
            raise UserError(f"trainer.{key}: rlhf_forge decides this, got {value}", hint=way_out)


def require_whole_minibatches(batch_size: int, arguments: Any) -> None:
    """Refuse a batch that cannot be cut into the minibatches of PPO.

    Args:
        batch_size: Rows of a batch.
        arguments: Of the model.

    Raises:
        UserError: Naming both keys.
    """
    if batch_size < 1:
        raise UserError(f"data.batch_size: must be 1 or more, got {batch_size}")
    size = arguments.updates.minibatch_size if "updates" in arguments else 1
    if size >= 1 and batch_size % size:
        raise UserError(
            f"model.init_args.updates.minibatch_size: must divide data.batch_size ({batch_size}), "
            f"got {size}"
        )


def fill_in_parents(arguments: Any, run: str) -> None:
    """Parents that are not given are those of the same run."""
    for parent in PARENTS:
        if parent in arguments and arguments[parent] is None:
            arguments[parent] = str(stage_folder(run, parent) / "artefact")


def require_parents(arguments: Any, *, stage: str, commands: Mapping[str, str]) -> None:
    """Refuse to start a stage before those that it builds on.

    Args:
        arguments: Of the model.
        stage: Which is to start.
        commands: What to type for each parent.

    Raises:
        UserError: Naming the first parent that is missing.
    """
    for parent in PARENTS:
        given = arguments.get(parent)
        unneeded = parent == "sft" and arguments.get("reference") == "base"
        if given is None or unneeded or (Path(given) / MANIFEST).is_file():
            continue
        raise UserError(
            f"{stage}: needs the artefact of stage {parent}, and there is none in {given}",
            hint=f"{commands[parent]} makes it",
        )


@contextmanager
def one_line(config: Mapping[str, Any]) -> Iterator[None]:
    """Turn what a class says of its arguments into one line that names the whole key."""
    try:
        yield
    except ValueError as error:
        raise UserError(full_key(config, first_line(innermost(error)))) from error


def full_key(config: Mapping[str, Any], text: str) -> str:
    """``text`` with the name it begins with as the config's whole key, where only one fits."""
    name = text.split(maxsplit=1)[0].rstrip(":")
    fitting = [key for key in _keys(config) if key.rpartition(".")[2] == name]
    return f"{fitting[0]}{text.removeprefix(name)}" if len(fitting) == 1 else text


def class_at(class_path: str) -> Any:
    """The class of a stage's module.

    Raises:
        UserError: If there is none.
    """
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(import_module(module or STAGE_CLASSES[name]), name)
    except (ImportError, AttributeError, KeyError):
        raise UserError(
            f"model.class_path: no such class: {class_path}", hint=nearest(name, STAGE_CLASSES)
        ) from None


def stage_of(path: Path) -> str | None:
    """The stage that a config declares by its model's class; None if it has no model.

    Raises:
        UserError: If it is not YAML, or the class is none.
    """
    model = read_config(path).get("model")
    class_path = model.get("class_path") if isinstance(model, dict) else None
    return None if class_path is None else str(class_at(str(class_path)).stage)


def command_for(stage: str, typed: Sequence[str], *, run: str) -> str:
    """What to type to train a stage with the config that lies beside the one that was typed.

    Args:
        stage: Which.
        typed: The command line of the present stage.
        run: Name of the run.
    """
    name = f"{stage.upper()}.yaml"
    for config in _configs_in(typed):
        for path in sorted(find_config(config).parent.glob("*.yaml")):
            with suppress(UserError):  # a broken file is not the one
                if stage_of(path) == stage:
                    name = str(Path(config).with_name(path.name))
    return f"python -m rlhf_forge fit --config {name} --run {run}"


def base_of(model: Any) -> str:
    """The base that a parsed model stands on: data takes its tokenizer from there."""
    if model is None:
        raise UserError(
            "model: no stage is named",
            hint="give a config: --config sft.yaml; `python -m rlhf_forge configs` lists them",
        )
    return str(model.init_args.backbone.path)


def kind_of(model: Any) -> str:
    """The kind of data that a parsed model learns from."""
    return str(class_at(model.class_path).data_kind)


def length_of(model: Any) -> int:
    """Batches of the run of a parsed model."""
    arguments = model.init_args
    return int(arguments.get("total_steps") or arguments.get("total_iterations"))


def seed_of(seed: object) -> int:
    """The seed of a run: a number, so that the run can be repeated.

    Raises:
        UserError: If it is true, false or negative.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed_everything: must be a whole number, 0 or more, got {seed}")
    return seed


def _configs_in(arguments: Sequence[str]) -> list[str]:
    """What was typed behind each --config."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return [
        word.removeprefix("--config=")
        for before, word in pairs
        if before in {"--config", "-c"} or word.startswith("--config=")
    ]


def _checked(path: Path) -> Path:
    for key in _keys(read_config(path)):
        refuse_linked(key)
    return path


def _keys(config: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """All keys and the keys under them, with dots."""
    for key, value in config.items():
        yield f"{place}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{place}{key}.")
