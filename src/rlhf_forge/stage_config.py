"""What the config of a stage may not say, and what is filled in where it is silent."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any, Literal

from rlhf_forge.artefact import MANIFEST
from rlhf_forge.errors import UserError
from rlhf_forge.functional.kl import MAX_RELATIVE_ERROR
from rlhf_forge.parsing import first_line, innermost, user_error_in
from rlhf_forge.processes import mistakes_in_processes
from rlhf_forge.reward_terms import artefact_in, filled_in
from rlhf_forge.run_folder import stage_folder
from rlhf_forge.watch_settings import mistakes_in_watch
from rlhf_forge.words import nearest

# A config may name these classes without their module.
STAGE_CLASSES = {
    "SFTModule": "rlhf_forge.modules.sft",
    "RewardModule": "rlhf_forge.modules.reward",
    "DPOModule": "rlhf_forge.modules.dpo",
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
    "default_root_dir": ((None,), "set run and name: the folder is lightning_logs/<run>/<name>"),
    "overfit_batches": ((0.0,), "give data.path a file of a few records instead"),
    "strategy": (
        ("auto",),
        "each process has the whole model, and a share of the rows; docs/scale.md says more",
    ),
}
PARENTS = ("sft", "reward")
# Names that stand for something else in a run: the bare base, and where the pipeline exports to.
TAKEN = frozenset({"base", "export"})


@dataclass(frozen=True)
class Best:
    """What makes one state of a run better than another.

    Attributes:
        metric: As it is logged: judge/score in PPO, val/accuracy or val/loss elsewhere.
        mode: Whether more of it is better, or less.
    """

    metric: str
    mode: Literal["max", "min"] = "max"


def mistakes_in(config: Any) -> Iterator[UserError]:
    """All that a parsed config says and may not, each with what to set instead."""
    for key in ("checkpoint_every", "keep_checkpoints"):
        if config[key] < 1:
            yield UserError(f"{key}: must be 1 or more, got {config[key]}")
    stage = class_at(config.model.class_path).stage
    yield from _mistakes_in_name(config, stage)
    yield from mistakes_in_watch(config, stage)
    yield from _mistakes_in_trainer(config.trainer)
    arguments = config.model.init_args
    if arguments.get("sft") is not None and not _is_needed("sft", arguments):
        yield UserError(
            f"model.init_args.sft: not used with reference: base, got {arguments.sft}",
            hint="leave sft out, or set model.init_args.reference to sft",
        )
    yield from _mistakes_in_sizes(config.data.batch_size, arguments)


def _mistakes_in_name(config: Any, stage: str) -> Iterator[UserError]:
    """A stage may have any name of a folder but that of something else in the run."""
    try:
        stage_folder(config.run, config.name or stage)
    except UserError as mistake:
        yield mistake
    stages = {class_at(known).stage for known in STAGE_CLASSES}
    if config.name in (stages | TAKEN) - {stage}:
        yield UserError(
            f"name: {config.name} is what something else in a run is called, not a {stage} stage",
            hint=f"leave name out, or set another: lightning_logs/RUN/{stage}-{config.name}",
        )


def _mistakes_in_trainer(trainer: Any) -> Iterator[UserError]:
    for key, (legal, way_out) in TRAINER_KEYS.items():
        value = trainer.get(key)
        if value not in legal:
            got = getattr(value, "class_path", value)
            yield UserError(f"trainer.{key}: rlhf_forge decides this, got {got}", hint=way_out)
    yield from mistakes_in_processes(trainer)


def _mistakes_in_sizes(batch_size: int, arguments: Any) -> Iterator[UserError]:
    """A batch must be cut into whole minibatches, and not outrun the steering of KL, in PPO."""
    if batch_size < 1:
        yield UserError(f"data.batch_size: must be 1 or more, got {batch_size}")
    if "updates" not in arguments:
        return
    size, each = arguments.updates.minibatch_size, arguments.rollout.responses_per_prompt
    if size >= 1 and batch_size * each % size:
        yield UserError(
            "model.init_args.updates.minibatch_size: must divide data.batch_size "
            f"({batch_size}) x rollout.responses_per_prompt ({each}), got {size}"
        )
    least = ceil(batch_size * each * MAX_RELATIVE_ERROR)
    if arguments.objective.kl_target is not None and arguments.objective.kl_horizon < least:
        yield UserError(
            f"model.init_args.objective.kl_horizon: must be {least} or more for "
            f"{batch_size * each} responses an iteration, got {arguments.objective.kl_horizon}"
        )


def mistakes_in_lengths(config: Any, *, context: int, samples: bool) -> Iterator[UserError]:
    """What has no room in the base: an example, or one with a response behind it.

    Args:
        config: As parsed.
        context: Most tokens that the base reads at once.
        samples: Whether responses are drawn to what data.max_length limits.
    """
    arguments = config.model.init_args
    key = "rollout" if "rollout" in arguments else "sampling"
    name = f"model.init_args.{key}.max_new_tokens"
    response = arguments[key].max_new_tokens if samples else 0
    room = f"the base has a context of {context} tokens"
    if response >= context:
        yield UserError(f"{name}: must be at most {context - 1}, got {response}", hint=room)
    elif config.data.max_length > context - response:
        yield UserError(
            f"data.max_length: must be at most {context - response}, got {config.data.max_length}",
            hint=f"{room}, a response up to {response} of them ({name})" if samples else room,
        )


def fill_in_parents(arguments: Any, run: str) -> None:
    """Parents that are needed and not given are those of the same run."""
    for parent in PARENTS:
        if parent in arguments and _is_needed(parent, arguments):
            own = str(stage_folder(run, parent) / "artefact")
            arguments[parent] = filled_in(arguments[parent], own)


def _is_needed(parent: str, arguments: Any) -> bool:
    return parent != "sft" or arguments.get("reference") != "base"


def parents_of(arguments: Any) -> dict[str, Path]:
    """Artefact folder of each stage that the stage with these arguments builds on."""
    needed = [parent for parent in PARENTS if _is_needed(parent, arguments)]
    given = {parent: artefact_in(arguments.get(parent)) for parent in needed}
    return {parent: Path(folder) for parent, folder in given.items() if folder is not None}


def missing_parents(
    arguments: Any, *, stage: str, command_of: Callable[[str], str]
) -> Iterator[UserError]:
    """What keeps a stage from starting before those that it builds on.

    Args:
        arguments: Of the model.
        stage: Which is to start.
        command_of: What to type for a parent.
    """
    for parent, folder in parents_of(arguments).items():
        if not (folder / MANIFEST).is_file():
            yield UserError(
                f"{stage}: needs the artefact of stage {parent}, and there is none in {folder}",
                hint=f"{command_of(parent)} makes it",
            )


@contextmanager
def one_line(config: Mapping[str, Any]) -> Iterator[None]:
    """Turn what a class says of its arguments into one line that names the whole key."""
    try:
        yield
    except ValueError as error:
        if (mistake := user_error_in(error)) is not None:
            raise mistake from error
        raise UserError(full_key(config, first_line(innermost(error)))) from error


def full_key(config: Mapping[str, Any], text: str) -> str:
    """``text`` with the name it begins with as the config's whole key, where only one fits."""
    name = text.split(maxsplit=1)[0].rstrip(":")
    fitting = [key for key in _keys(config) if key.rpartition(".")[2] == name]
    return f"{fitting[0]}{text.removeprefix(name)}" if len(fitting) == 1 else text


def class_at(class_path: str) -> Any:
    """The class of a stage's module.

    Raises:
        UserError: If there is none, or it is no stage.
    """
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module or STAGE_CLASSES[name]), name)
    except (ImportError, AttributeError, KeyError):
        raise UserError(
            f"model.class_path: no such class: {class_path}", hint=nearest(name, STAGE_CLASSES)
        ) from None
    if not hasattr(found, "stage"):
        raise UserError(
            f"model.class_path: not a stage: {class_path}",
            hint=f"give {', '.join(STAGE_CLASSES)} or a class made from one of them",
        )
    return found


def base_of(model: Any) -> str:
    """The base that a parsed model stands on: data takes its tokenizer from there."""
    if model is None:
        raise UserError(
            "model: no stage is named",
            hint="give a config: --config sft.yaml; `python -m rlhf_forge configs` lists them",
        )
    class_at(model.class_path)
    return str(model.init_args.backbone.path)


def kind_of(model: Any) -> str:
    """The kind of data that a parsed model learns from."""
    return str(class_at(model.class_path).data_kind)


def length_of(model: Any) -> int:
    """Batches of the run of a parsed model."""
    arguments = model.init_args
    return int(arguments.get("total_steps") or arguments.get("total_iterations"))


def micro_batch_of(model: Any) -> object:
    """What a parsed model says of micro_batch_tokens; None if its class has no such key."""
    arguments = model.init_args
    return (arguments.get("updates") or arguments).get("micro_batch_tokens")


def seed_of(seed: object) -> int:
    """The seed of a run: a number, so that the run can be repeated.

    Raises:
        UserError: If it is true or false, or no seed of numpy's.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"seed_everything: must be a whole number from 0 to 2**32 - 1, got {seed}")
    return seed


def _keys(config: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """All keys and the keys under them, with dots."""
    for key, value in config.items():
        yield f"{place}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{place}{key}.")
