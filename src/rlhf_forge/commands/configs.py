"""``configs``: list the presets."""

from pathlib import Path


def configs() -> int:
    """List the shipped configs, each with the first line of what it says about itself."""
    from rlhf_forge.presets import config_folders

    found: dict[str, str] = {}
    for folder in config_folders():
        for path in sorted(folder.rglob("*.yaml")):
            found.setdefault(path.relative_to(folder).as_posix(), _purpose(path))
    width = max((len(name) for name in found), default=0)
    for name, purpose in sorted(found.items()):
        print(f"{name:<{width}}  {purpose}".rstrip())
    return 0


def _purpose(path: Path) -> str:
    """The first comment line of a config; empty if it begins with anything else."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
