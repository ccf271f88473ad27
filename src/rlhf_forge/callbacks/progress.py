"""The progress bar: how far, how fast, how long still."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import (
    BatchesProcessedColumn,
    CustomBarColumn,
)
from rich import get_console
from rich.progress import TextColumn, TimeRemainingColumn
from typing_extensions import override

WIDEST_BAR, NARROWEST_BAR = 40, 8
BESIDE_THE_BAR = 68
"""Columns that stage, numbers, time and metrics take; a line that is cut in two cannot be read."""


class ForgeProgressBar(RichProgressBar):
    """Rich's bar with time left and tokens a second, on stderr: stdout is for data."""

    def __init__(self) -> None:
        super().__init__(console_kwargs={"stderr": True})
        self.tokens = 0.0
        self.started = 0.0

    @override
    def configure_columns(self, trainer: Trainer) -> list[Any]:
        left = get_console().width - BESIDE_THE_BAR
        return [
            TextColumn("[progress.description]{task.description}"),
            CustomBarColumn(
                bar_width=min(max(left, NARROWEST_BAR), WIDEST_BAR),
                complete_style=self.theme.progress_bar,
                finished_style=self.theme.progress_bar_finished,
                pulse_style=self.theme.progress_bar_pulse,
            ),
            BatchesProcessedColumn(style=self.theme.batch_progress),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        ]

    @property
    @override
    def validation_description(self) -> str:
        return "val"

    @override
    def _get_train_description(self, current_epoch: int) -> str:
        # A run is one virtual epoch, so its number says nothing.
        return str(getattr(self.trainer.lightning_module, "stage", "fit"))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.tokens, self.started = 0.0, time.perf_counter()

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        responses = trainer.callback_metrics.get("rollout/length")
        sampled = 0.0 if responses is None else float(responses) * len(batch.positions)
        self.tokens += float(batch.mask.sum()) + sampled
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        logged = super().get_metrics(trainer, pl_module)
        logged.pop("v_num", None)
        shown = {_short(name): value for name, value in logged.items()}
        if "accuracy" in shown:
            shown.pop("loss", None)
        if self.tokens:
            shown["tokens/s"] = f"{self.tokens / (time.perf_counter() - self.started):.0f}"
        return shown


def _short(name: str) -> str:
    """A metric's name where the stage stands beside it."""
    kind, _, rest = name.partition("/")
    return "val" if kind == "val" else rest or kind
