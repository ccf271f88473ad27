"""``configs``: list the presets."""

import sys
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap

LEAST_WIDTH = 20


def configs() -> int:
    """List the shipped configs, each with the first line of what it says about itself."""
    from rlhf_forge.presets import config_folders

    found: dict[str, str] = {}
    for folder in config_folders():
        for path in sorted(folder.rglob("*.yaml")):
            found.setdefault(path.relative_to(folder).as_posix(), _purpose(path))
    indent = max((len(name) for name in found), default=0) + 2
    # Read by people it fits their terminal; read by programs it is a line for each.
    columns = get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for name, purpose in sorted(found.items()):
        lines = wrap(purpose, max(columns - indent, LEAST_WIDTH)) or [""]
        print(f"{name:<{indent}}" + f"\n{'':{indent}}".join(lines))
    return 0


def _purpose(path: Path) -> str:
    """The first comment line of a config; empty if it begins with anything else."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
