"""The config files that a command line names: found, read, and without keys that follow."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from rlhf_forge.errors import UserError
from rlhf_forge.presets import find_config
from rlhf_forge.stage_config import class_at

# Keys that follow from others, and from which.
LINKED = {
    "model.init_args.seed": "seed_everything",
    "data.tokenizer": "model.init_args.backbone.path",
    "data.kind": "the class of the model",
}
# The tag of `<<`, by which YAML takes another mapping's keys in.
MERGE = "tag:yaml.org,2002:merge"
# Keys that may hold those as JSON, or name a file that does.
HOLDERS = ("model", "model.init_args", "data")


class KeyTwice(yaml.MarkedYAMLError):
    """A mapping has a key twice."""


class OnceLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that stands twice: YAML itself takes the last."""

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, yaml.Mark] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True) if key_node.tag != MERGE else None
            if key in seen:
                first = seen[key].line + 1
                raise KeyTwice(
                    problem=f"{key} stands there twice, first in line {first}",
                    problem_mark=key_node.start_mark,
                )
            if isinstance(key, str):
                seen[key] = key_node.start_mark
        return super().construct_mapping(node, deep)


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
            found.append(argument)
    for key, value in _given(arguments):
        refuse_linked(key, value, Path())
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UserError: If it holds none, or a key twice; with file and line.
    """
    try:
        # A SafeLoader: it makes plain values and nothing else.
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=OnceLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        fault = "" if isinstance(error, KeyTwice) else "not YAML: "
        raise UserError(f"{path}{where}: {fault}{error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path}: not YAML: not text in UTF-8") from None
    if not isinstance(config, dict):
        kind = "nothing" if config is None else f"a {type(config).__name__}"
        raise UserError(f"{path}: holds {kind}, where a config has keys with values")
    return config


def refuse_linked(key: str, value: Any, folder: Path) -> None:
    """Refuse a key that follows from others: the other would beat it without a word.

    Args:
        key: The whole key.
        value: What it is set to; keys within are looked at too.
        folder: From where a file that it names is found.

    Raises:
        UserError: Naming what it follows from.
    """
    whole = re.sub(r"^model\.seed$", "model.init_args.seed", key)
    if whole in LINKED:
        raise UserError(f"{key}: follows from {LINKED[whole]}, so it cannot be set by itself")
    if isinstance(value, str) and key in HOLDERS:
        value = _held(value, folder)
    if isinstance(value, Mapping):
        for inner, deeper in value.items():
            refuse_linked(f"{key}.{inner}", deeper, folder)


def stage_of(path: Path) -> str | None:
    """The stage that a config declares by its model's class; None if it has no model.

    Raises:
        UserError: If it is not YAML, or the class is none.
    """
    model = read_config(path).get("model")
    class_path = model.get("class_path") if isinstance(model, dict) else None
    return None if class_path is None else str(class_at(str(class_path)).stage)


def name_of(path: Path) -> str | None:
    """What the stage of a config is called in its run; None if the config has no model.

    Raises:
        UserError: As `stage_of`.
    """
    stage = stage_of(path)
    return stage and str(read_config(path).get("name") or stage)


def command_for(
    stage: str, typed: Sequence[str], *, run: str, data_instead: str | None = None
) -> str:
    """What to type to train a stage with the config that lies beside the one that was typed.

    Data that was typed goes along: the config beside names other data, such as the toy world's.

    Args:
        stage: Which.
        typed: The command line of the present stage.
        run: Name of the run.
        data_instead: Named in place of typed data that the stage could not use.
    """
    name = f"{stage.upper()}.yaml"
    for config in _typed_behind(("--config", "-c"), typed):
        for path in sorted(find_config(config).parent.glob("*.yaml")):
            with suppress(UserError):  # a broken file is not the one
                if name_of(path) == stage:
                    name = str(Path(config).with_name(path.name))
    own = _typed_behind(("--data.path",), typed)[-1:]
    data = [shlex.quote(path if data_instead is None else data_instead) for path in own]
    return " ".join(
        [
            f"python -m rlhf_forge fit --config {name}",
            *(f"--data.path {d}" for d in data),
            f"--run {run}",
        ]
    )


def _typed_behind(names: tuple[str, ...], arguments: Sequence[str]) -> list[str]:
    """What was typed behind each of an option, which has these names."""
    pairs = zip(["", *arguments], arguments, strict=False)
    joined = f"{names[0]}="
    return [
        word.removeprefix(joined)
        for before, word in pairs
        if before in names or word.startswith(joined)
    ]


def _checked(path: Path) -> Path:
    for key, value in read_config(path).items():
        refuse_linked(str(key), value, path.parent)
    return path


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each option of a command line with its value."""
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        if argument.startswith("--"):
            key, joined, value = argument.removeprefix("--").partition("=")
            yield key, value if joined else following


def _held(text: str, folder: Path) -> Any:
    """What the parser will read from ``text``: a file of that name, else JSON or YAML."""
    with suppress(OSError):  # JSON may be too long for the name of a file
        if (folder / text).is_file():
            return read_config(folder / text)
    with suppress(yaml.YAMLError):  # the parser says so
        return yaml.safe_load(text)
    return None
