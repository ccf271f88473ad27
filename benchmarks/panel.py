"""Several judges that look on while PPO over-optimises, for overoptimisation.py."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rlhf_forge.callbacks.checkpoints import batches_done
from rlhf_forge.callbacks.watch import reading_of
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.evaluation.policies import judged
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.watched import add_judge, watched

GOLD = "rlhf_forge.toy_world.gold:score"
EVERY, NUMBER = 4, 256


class Panel(Callback):
    """Writes what several judges make of the policy, every `EVERY` iterations and at the end.

    Args:
        models: Artefact of each reward model that looks on, by name.
        out: File of the readings, one a line.
    """

    def __init__(self, models: dict[str, str], out: str) -> None:
        self.models, self.out = models, Path(out)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, folder in self.models.items():
            add_judge(cast("PPOModule", pl_module), folder, role=name)
        self.out.unlink(missing_ok=True)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._read(cast("PPOModule", pl_module), 0)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        done = batches_done(trainer)
        if done % EVERY == 0 or done == trainer.limit_train_batches:
            self._read(cast("PPOModule", pl_module), done)

    def _read(self, module: PPOModule, done: int) -> None:
        examples = cast("Sequence[PromptExample]", module.held_out[-NUMBER:])
        seen = watched(module, examples, models=list(self.models), when=f"iteration {done}")
        truth = judged(GOLD, examples, seen.answers)
        accuracy = fmean(truth.correct or [])
        row = asdict(reading_of(seen, done, judged=[], accuracy=accuracy))
        row["judges"] = seen.models | {"gold": truth.scores}
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
