"""Processes that train together, set up as torchrun does it, but forked from one that is warm."""

import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.ports import free_port

PATIENCE = 300.0
CONTEXT = get_context("forkserver")
LOADED = ["rlhf_forge.cli", "transformers.models.mistral", "tests.serve.feedback.child", __name__]
CONTEXT.set_forkserver_preload(LOADED)
# Changes things in a process before it begins; it is given the process's number.
Watch = Callable[[int], None]


def by_torchrun(number: int, processes: int) -> dict[str, str]:
    """What torchrun sets for a process."""
    numbers = {"RANK": str(number), "LOCAL_RANK": str(number), "GROUP_RANK": "0"}
    return numbers | {"WORLD_SIZE": str(processes), "TORCHELASTIC_RUN_ID": "a test"}


def by_slurm(number: int, processes: int) -> dict[str, str]:
    """What srun sets for a task on one node."""
    numbers = {"PROCID": str(number), "LOCALID": str(number), "NODEID": "0"}
    job = {"JOB_ID": "7", "JOB_NAME": "test", "NODELIST": "localhost", "NTASKS": str(processes)}
    job["NTASKS_PER_NODE"] = str(processes)
    return {f"SLURM_{name}": value for name, value in (numbers | job).items()}


def together(
    work: Callable[..., Any],
    *arguments: Any,
    processes: int = 2,
    as_started: Callable[[int, int], dict[str, str]] = by_torchrun,
) -> list[int]:
    """Exit codes of processes that each call ``work(number, *arguments)`` in this folder.

    Args:
        work: A function of a module; what it returns is the exit code.
        arguments: Pickled.
        processes: How many.
        as_started: Gives the environment variables of each.
    """
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    running = [
        CONTEXT.Process(
            target=_begin,
            args=(
                *(number, processes, as_started, address),
                *(str(Path.cwd()), list(sys.path), work, arguments),
            ),
            daemon=True,
        )
        for number in range(processes)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(PATIENCE)
        process.kill()
    return [process.exitcode if process.exitcode is not None else -1 for process in running]


def fit(
    arguments: Sequence[str], watch: Watch | None = None, *, processes: int = 2, **options: Any
) -> list[int]:
    """Exit codes of ``python -m rlhf_forge`` with these arguments; what is told is in `told_by`."""
    given = [*arguments, f"--trainer.devices={processes}", "--trainer.accelerator=cpu"]
    return together(_fit, given, watch, processes=processes, **options)


def told_by(number: int) -> str:
    """What a process wrote to stderr."""
    return Path(f"stderr{number}.txt").read_text()


def joined() -> None:
    """Make a group of the processes, for work that has no Trainer."""
    from torch import distributed

    distributed.init_process_group("gloo")


def _fit(number: int, arguments: list[str], watch: Watch | None) -> int:
    from rlhf_forge.__main__ import main

    if watch is not None:
        watch(number)
    sys.argv = ["rlhf_forge", *arguments]
    return main(arguments)


def _begin(
    number: int,
    processes: int,
    as_started: Callable[[int, int], dict[str, str]],
    address: dict[str, str],
    folder: str,
    path: list[str],
    work: Callable[..., Any],
    arguments: Sequence[Any],
) -> None:
    os.chdir(folder)
    sys.path[:] = path
    errors = os.open(f"stderr{number}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 2)
    if processes > 1:
        os.environ |= address | as_started(number, processes)
    code = work(number, *arguments)
    sys.stderr.flush()
    sys.exit(code)
