"""Accuracy and calibration of a reward model on held-out pairs."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics.classification import BinaryCalibrationError
from typing_extensions import override

from rlhf_forge.modules.reward import RewardModule


class RewardMetrics(Callback):
    """Logs the expected calibration error of sigmoid(chosen - rejected) after each held-out pass.

    Which answer stands first is an accident of the file, so every pair counts in both orders.
    """

    def __init__(self) -> None:
        self.calibration = BinaryCalibrationError(n_bins=10)

    def _update(self, outputs: Any) -> None:
        wins = torch.sigmoid(outputs["chosen"] - outputs["rejected"]).cpu()
        self.calibration.update(wins, torch.ones_like(wins, dtype=torch.long))
        self.calibration.update(1 - wins, torch.zeros_like(wins, dtype=torch.long))

    @override
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        if isinstance(pl_module, RewardModule):
            self._update(outputs)

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        if isinstance(pl_module, RewardModule):
            self._update(outputs)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "val")

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "test")

    def _log(self, module: LightningModule, name: str) -> None:
        if isinstance(module, RewardModule):
            module.log(f"{name}/calibration_error", self.calibration.compute())
            self.calibration.reset()
