"""Finding configs by their bare names."""

from importlib.resources import files
from pathlib import Path, PurePosixPath

from rlhf_forge.errors import UserError
from rlhf_forge.words import nearest


def config_folders() -> list[Path]:
    """Where bare names are looked up: the project's configs, then the copy in the package."""
    return [Path("configs"), Path(str(files("rlhf_forge"))) / "configs"]


def find_config(name: str) -> Path:
    """The config that ``name`` means: a file as given, or one of the shipped ones.

    Raises:
        UserError: If there is none; the message lists the names that exist, or their folders.
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
        f"--config: no such file: {name}; shipped: {', '.join(_near(name, known))}",
        hint=nearest(name, known) or "`python -m rlhf_forge configs` says what each is for",
    )


def _near(name: str, known: list[str]) -> list[str]:
    """The names in the folder that ``name`` is looked for in, and the folders beside it."""
    folder = str(PurePosixPath(name).parent)
    inside = [other for other in known if str(PurePosixPath(other).parent) == folder]
    if inside and folder != ".":
        return inside
    return list(dict.fromkeys(_at_the_top(other) for other in sorted(known, key=_depth)))


def _at_the_top(name: str) -> str:
    first, *rest = PurePosixPath(name).parts
    return f"{first}/" if rest else first


def _depth(name: str) -> int:
    return len(PurePosixPath(name).parts)


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
