"""Where a run lives: lightning_logs/<run>/<name of the stage>, and what stands there."""

import re
import sys
from pathlib import Path

from rlhf_forge.errors import UserError

LOGS = Path("lightning_logs")
LAST = "last.ckpt"
CONFIG = "config.yaml"
NAME = re.compile(r"\w[\w.-]*")


def stage_folder(run: str, name: str) -> Path:
    """Folder of one stage of a run; ``name`` is the stage's own, or that its config gives it.

    Raises:
        UserError: If one of them is no name of a folder.
    """
    for key, given in (("run", run), ("name", name)):
        if not NAME.fullmatch(given):
            raise UserError(
                f"{key}: must be a name of letters, digits, '-', '_' and '.', got {given!r}",
                hint=f"the stage's folder is {LOGS}/RUN/NAME",
            )
    return LOGS / run / name


def last_checkpoint(run: str, name: str) -> Path:
    """Where a stage of a run writes its checkpoint."""
    return stage_folder(run, name) / "checkpoints" / LAST


def find_checkpoint(given: str | None, folder: Path, *, word: str) -> Path | None:
    """The checkpoint that ``--ckpt_path`` means; ``last`` is the one that the run wrote last.

    Args:
        given: What the person gave.
        folder: Of the stage.
        word: fit, validate, test or predict. All but fit need a checkpoint: last by default. A run
            that was stopped before its first one starts anew.

    Raises:
        UserError: If there is none.
    """
    if given is None and word == "fit":
        return None
    last = folder / "checkpoints" / LAST
    path = last if given in {None, "last"} else Path(str(given))
    if path.is_file():
        return path
    if path == last and word == "fit" and (folder / CONFIG).is_file():
        return None
    if path == last:
        raise UserError(
            f"{word}: nothing to start from: no {path}",
            hint="run fit with this config and --run first, or give --ckpt_path FILE",
        )
    raise UserError(
        f"ckpt_path: no such file: {path}",
        hint=f"--ckpt_path last means {last}" if last.is_file() else None,
    )


def set_aside(folder: Path) -> None:
    """Keep what an earlier run left in ``folder``, under the next free number."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    number = 1
    while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(kept)
    sys.stderr.write(f"{folder}: what was there is kept as {kept}\n")
