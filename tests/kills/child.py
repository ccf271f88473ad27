"""``python -m rlhf_forge`` with a death ahead: ``python -m tests.kills.child PHASE NUMBER WHEN``.

What stands behind these three is the command line. The process kills itself as `kill -9` would:
nothing is flushed, nothing is cleaned up.

PHASE is ``any`` (WHEN seconds into the training), the name of a phase (WHEN seconds into its
NUMBER-th time), ``save_bytes`` (when the share WHEN of the NUMBER-th checkpoint's bytes is written)
or ``never``. Each phase that begins or ends adds a line to ``phases.txt``: seconds and name.
"""

import io
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any
from unittest.mock import patch

import torch

from rlhf_forge.__main__ import main
from rlhf_forge.modules import ppo
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.reward import RewardModule
from rlhf_forge.modules.sft import SFTModule

PHASES = Path("phases.txt")
BETWEEN = "between"


def die() -> None:
    """As kill -9 does it."""
    os.kill(os.getpid(), signal.SIGKILL)


class Death:
    """When the process dies, and what it is at until then."""

    def __init__(self, phase: str, number: int, when: float) -> None:
        self.phase, self.number, self.when = phase, number, when
        self.times = Counter[str]()
        self.running: list[str] = [BETWEEN]

    def of(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, as phase ``name``."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.begin(name)
            try:
                return function(*args, **kwargs)
            finally:
                self.running.pop()
                self.note()

        return watched

    def begin(self, name: str) -> None:
        """Note the phase, and start the clock if it is the one."""
        if not self.times and self.phase == "any":
            Timer(self.when, die).start()
        self.times[name] += 1
        self.running.append(name)
        self.note()
        if name == self.phase and self.times[name] == self.number:
            Timer(self.when, die).start()

    def note(self) -> None:
        """One line, in the file at once."""
        with PHASES.open("a") as file:
            file.write(f"{time.monotonic()} {self.running[-1]}\n")

    def save(self, checkpoint: Any, file: Any) -> None:
        """torch.save that may end in the middle."""
        self.begin("save")
        memory = io.BytesIO()
        torch_save(checkpoint, memory)
        content = memory.getvalue()
        last = self.phase == "save_bytes" and self.times["save"] == self.number
        file.write(content[: int(len(content) * self.when)] if last else content)
        if last:
            file.flush()
            die()
        self.running.pop()
        self.note()


torch_save = torch.save


def watch(death: Death) -> None:
    """Put the phases of all stages under its eyes."""
    phases = {
        (SFTModule, "training_step"): "update",
        (SFTModule, "validation_step"): "validation",
        (RewardModule, "training_step"): "update",
        (RewardModule, "validation_step"): "validation",
        (ppo, "collect"): "rollout",
        (PPOModule, "learn"): "update",
        (PPOModule, "validation_step"): "validation",
    }
    for (owner, name), phase in phases.items():
        patch.object(owner, name, death.of(phase, getattr(owner, name))).start()
    patch.object(torch, "save", death.save).start()


if __name__ == "__main__":
    name, number, when, *arguments = sys.argv[1:]
    watch(Death(name, int(number), float(when)))
    sys.exit(main(arguments))
