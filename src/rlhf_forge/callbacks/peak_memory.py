"""What a run really took of memory, beside what was planned."""

import gc
import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rlhf_forge.backbone.freed_memory import give_freed_memory_back
from rlhf_forge.planning.device import most_resident, resident
from rlhf_forge.run_folder import PROVENANCE


class PeakMemory(Callback):
    """Writes ``memory`` into ``provenance.json``: bytes predicted, and bytes at the peak.

    On a CPU that is what the process holds at most, less what it held before the model was loaded;
    on a GPU what torch had allocated at most, so without the CUDA context.

    Args:
        predicted: Bytes, low, expected and high, as `rlhf_forge.planning.plan` has them.
    """

    def __init__(self, predicted: dict[str, int]) -> None:
        self.predicted = predicted
        self.before = self.most_before = self.seen = 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.before, self.most_before = held_before(trainer), most_resident() or 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, None)

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.seen = max(self.seen, resident())

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        device = trainer.strategy.root_device
        if device.type == "cuda":
            self._write(trainer, torch.cuda.max_memory_allocated(device))
        elif self.seen:
            self._write(trainer, self._most() - self.before)

    def _most(self) -> int:
        """The system's count; where an earlier run in this process held more, that of the steps."""
        most = most_resident() or 0
        return max(self.seen, most) if most > self.most_before else self.seen

    def _write(self, trainer: Trainer, measured: int | None) -> None:
        path = Path(trainer.default_root_dir) / PROVENANCE
        if not trainer.is_global_zero or not path.is_file():
            return
        known = json.loads(path.read_text(encoding="utf-8"))
        known["memory"] = {"predicted": self.predicted, "measured": measured}
        path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def held_before(trainer: Trainer) -> int:
    """Bytes that this process holds before its model is loaded; a GPU counts its peak from here."""
    gc.collect()
    give_freed_memory_back()
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
    return resident()
