"""The progress bar: how far, how fast, how long still."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from typing_extensions import override


class ForgeProgressBar(RichProgressBar):
    """Rich's bar with time left and tokens a second, on stderr: stdout is for data."""

    def __init__(self) -> None:
        super().__init__(console_kwargs={"stderr": True})
        self.tokens = 0.0
        self.started = 0.0

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
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        if self.tokens:
            shown["tokens/s"] = f"{self.tokens / (time.perf_counter() - self.started):.0f}"
        return shown
