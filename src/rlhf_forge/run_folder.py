"""Where a run lives: lightning_logs/<run>/<name of the stage>, and what stands there."""

import re
import sys
from pathlib import Path

from rlhf_forge.errors import UserError

LOGS = Path("lightning_logs")
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
BEST = "best.ckpt"
NUMBERED = "iteration-{:06d}.ckpt"
CONFIG = "config.yaml"
PROVENANCE = "provenance.json"
SAMPLES = "samples.jsonl"
TIMES = "seconds.json"
# In the run's folder, beside its stages.
SUMMARY = "summary.json"
RESPONSES = "responses.jsonl"
EXPORT = "export"
BEST_HINT = "keep_best in the config of fit names the metric by which one is kept"
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
    """The newest checkpoint of a stage of a run: a link to the one with its iteration's number."""
    return stage_folder(run, name) / CHECKPOINTS / LAST


def numbered_checkpoints(folder: Path) -> list[Path]:
    """Those with a number in a folder of checkpoints, the newest first."""
    found = folder.glob("iteration-[0-9]*.ckpt")
    return sorted(found, key=lambda path: (len(path.name), path.name), reverse=True)


def find_checkpoint(given: str | None, folder: Path, *, word: str) -> Path | None:
    """The checkpoint that ``--ckpt_path`` means.

    Args:
        given: What the person gave: a file, ``last`` for the one that the run wrote last, ``auto``
            for the same if there is one, ``best`` for the best by the metric of keep_best.
        folder: Of the stage.
        word: fit, validate, test or predict. All but fit need a checkpoint: last by default. A run
            that was stopped before its first one starts anew.

    Raises:
        UserError: If there is none.
    """
    if given is None and word == "fit":
        return None
    last, best = folder / CHECKPOINTS / LAST, folder / CHECKPOINTS / BEST
    named = {None: last, "last": last, "auto": last, "best": best}
    path = named.get(given) or Path(str(given))
    if path.is_file():
        return path
    if given == "auto" and word == "fit":
        return None
    if path == last and word == "fit" and (folder / CONFIG).is_file():
        return None
    if path == best:
        raise UserError(f"ckpt_path: no best checkpoint: no {path}", hint=BEST_HINT)
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
