"""What ``predict`` writes."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

PREDICTIONS = "predictions.jsonl"


class PredictionWriter(Callback):
    """Writes each row that ``predict_step`` returns as a line of ``predictions.jsonl``."""

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.path = Path(trainer.default_root_dir) / PREDICTIONS
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("")

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        *args: Any,
    ) -> None:
        if trainer.is_global_zero:  # every process has all rows
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in outputs)
