"""Finding configs by their bare names."""

from importlib.resources import files
from pathlib import Path

from rlhf_forge.errors import UserError
from rlhf_forge.words import nearest


def config_folders() -> list[Path]:
    """Where bare names are looked up: the project's configs, then the copy in the package."""
    return [Path("configs"), Path(str(files("rlhf_forge"))) / "configs"]


def find_config(name: str) -> Path:
    """The config that ``name`` means: a file as given, or one of the shipped ones.

    Raises:
        UserError: If there is none; the message lists the names that exist.
    """
    if Path(name).is_file():
        return Path(name)
    for folder in config_folders():
        if (folder / name).is_file():
            return folder / name
    known = sorted(
        {p.relative_to(f).as_posix() for f in config_folders() for p in f.rglob("*.yaml")}
    )
    raise UserError(
        f"--config: no such file: {name}; shipped configs: {', '.join(known)}",
        hint=nearest(name, known),
    )


def find_config_folder(name: str) -> Path:
    """The folder of configs that ``name`` means: as given, or among the shipped ones.

    Raises:
        UserError: If there is none.
    """
    bare = name.removeprefix("configs/").rstrip("/")
    for folder in (Path(name), *(root / bare for root in config_folders())):
        if folder.is_dir():
            return folder
    raise UserError(f"pipeline: no such folder: {name}", hint="shipped: configs/quickstart")
