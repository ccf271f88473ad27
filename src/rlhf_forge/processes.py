"""How many processes train, and whether they were started so."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from rlhf_forge.errors import UserError

HOW = "docs/scale.md says how several processes are started"


def processes_of(trainer: Any) -> int:
    """Processes that a parsed config of the Trainer asks for; 0 if it does not say."""
    return _devices(trainer.devices) * int(trainer.num_nodes)


def mistakes_in_processes(trainer: Any) -> Iterator[UserError]:
    """What a parsed config of the Trainer says of devices and may not."""
    asked = processes_of(trainer)
    if _devices(trainer.devices) < 1:
        yield UserError(
            f"trainer.devices: must be a number of devices, or a list of them, got "
            f"{trainer.devices}",
            hint="--trainer.devices 2, or [2] for the third GPU alone",
        )
    if trainer.num_nodes < 1:
        yield UserError(f"trainer.num_nodes: must be 1 or more, got {trainer.num_nodes}")
    started = os.environ.get("WORLD_SIZE", "1")
    if asked >= 1 and started not in {"1", str(asked)}:
        yield UserError(
            f"WORLD_SIZE: {started} processes were started, and trainer.devices x "
            f"trainer.num_nodes is {asked}",
            hint=f"set them to what was started; {HOW}",
        )


def require_startable(trainer: Any, typed: Sequence[str], command_line: Sequence[str]) -> None:
    """Refuse several processes where each would do more than train this stage.

    All are started with one command line, by torchrun and by Lightning alike.

    Args:
        trainer: The parsed config of the Trainer.
        typed: What this stage was parsed from.
        command_line: Of this process.

    Raises:
        UserError: If that is another.
    """
    asked = processes_of(trainer)
    if asked != 1 and list(command_line) != list(typed):
        raise UserError(
            f"trainer.devices: {asked} processes train one stage, started by a command of its own",
            hint=f"torchrun --standalone --nproc_per_node {_devices(trainer.devices)} -m -- "
            f"rlhf_forge fit ...; {HOW}",
        )


def _devices(devices: Any) -> int:
    """How many Lightning takes of a number, a list of indices, or one of these as text."""
    if isinstance(devices, str) and "," in devices:
        devices = [index for index in devices.split(",") if index.strip()]
    if isinstance(devices, list):
        return len(devices)
    try:
        return max(0, int(devices))
    except ValueError:  # auto
        return 0
