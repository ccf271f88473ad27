"""The best state of a run, by a metric that the config names; the artefact is written from it."""

from math import inf, isfinite
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rlhf_forge import ranks
from rlhf_forge.callbacks.checkpoints import (
    AtomicCheckpointIO,
    checkpoints_of,
    validation_follows,
)
from rlhf_forge.errors import UserError
from rlhf_forge.run_folder import BEST
from rlhf_forge.stage_config import Best
from rlhf_forge.words import nearest


class BestCheckpoint(Callback):
    """Writes ``checkpoints/best.ckpt`` whenever the metric is better than ever before.

    The metric is looked at behind every step, and its validation if there is one, when the weights
    are those that it was measured on, and before the first step: what a run starts from may be its
    best. An old value is no better than itself.

    Args:
        by: What is better.
    """

    def __init__(self, by: Best) -> None:
        self.by = by
        self.value = -inf if by.mode == "max" else inf

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._consider(trainer)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not validation_follows(trainer):
            self._consider(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._consider(trainer)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value = state_dict["value"]

    def restored(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """Put the best weights into ``module``, and return the checkpoint that held them.

        Raises:
            UserError: If the metric was never a number.
        """
        if abs(self.value) == inf:
            raise UserError(
                f"keep_best.metric: {self.by.metric} was never logged in this run, or never finite",
                hint=nearest(self.by.metric, trainer.callback_metrics),
            )
        checkpoint = AtomicCheckpointIO().load_checkpoint(checkpoints_of(trainer) / BEST)
        module.load_state_dict(checkpoint["state_dict"], strict=False)
        return checkpoint

    def _consider(self, trainer: Trainer) -> None:
        if self.by.metric not in trainer.callback_metrics:
            return
        value = float(ranks.from_first(lambda: trainer.callback_metrics[self.by.metric].item()))
        better = value > self.value if self.by.mode == "max" else value < self.value
        if better and isfinite(value):
            self.value = value
            trainer.save_checkpoint(checkpoints_of(trainer) / BEST)
