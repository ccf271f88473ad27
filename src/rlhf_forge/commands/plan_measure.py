"""``plan --measure``: real steps on the longest rows, and what they take."""

from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rlhf_forge.callbacks.defaults import trainer_defaults
from rlhf_forge.callbacks.peak_memory import held_before
from rlhf_forge.errors import UserError
from rlhf_forge.parsed_stage import ParsedStage
from rlhf_forge.planning.device import most_resident, resident
from rlhf_forge.planning.look import look_at
from rlhf_forge.planning.sizes import gib
from rlhf_forge.preflight import tokens_of
from rlhf_forge.stage_config import fill_in_parents, missing_parents

# The first allocates what stays.
STEPS = 2


class Peak(Callback):
    """Bytes that are held before the model is loaded, and most of all behind the last step."""

    def __init__(self) -> None:
        self.before = self.most = 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.before = held_before(trainer)

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        device = trainer.strategy.root_device
        if device.type == "cuda":
            self.most = torch.cuda.max_memory_allocated(device)
        else:
            self.most = (most_resident() or resident()) - self.before


def measured_line(stage: ParsedStage) -> str:
    """Load the base, run a warm-up and one step on the longest rows, and tell what they took.

    Raises:
        UserError: If the base, a parent or the data is not here.
    """
    arguments = stage.config.model.init_args
    fill_in_parents(arguments, stage.config.run)
    for mistake in missing_parents(arguments, stage=stage.stage, command_of=stage.command_of):
        raise mistake
    data = stage.data()
    if not data.train.examples:
        raise UserError("plan --measure: no example to train on")
    longest = sorted(data.train.examples, key=tokens_of, reverse=True)[: data.batch_size]
    data.train = replace(data.train, examples=longest)
    look = look_at(stage.config, stage=stage.stage, data=data)
    peak = Peak()
    _trainer(stage, peak).fit(stage.module(), datamodule=data)
    planned = look.plan.comparable(cuda=look.setup.cuda)["expected"]
    return (
        f"measured: {gib(peak.most)} in a step on the {len(longest)} longest rows; "
        f"planned for it: {gib(planned)}"
    )


def _trainer(stage: ParsedStage, peak: Callback) -> Trainer:
    """That writes nothing."""
    settings = trainer_defaults() | {"callbacks": [peak], "logger": False}
    return Trainer(
        **settings,
        accelerator=stage.config.trainer.accelerator,
        max_epochs=1,
        limit_train_batches=STEPS,
        limit_val_batches=0,
        enable_progress_bar=False,
        default_root_dir=str(stage.folder),
    )
