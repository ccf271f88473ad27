"""The artefact that a finished stage leaves behind."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rlhf_forge.artefact import Golden, Manifest, write_manifest
from rlhf_forge.backbone.adapter_files import write_adapter
from rlhf_forge.callbacks.checkpoints import batches_done, was_cut_short
from rlhf_forge.card import write_card
from rlhf_forge.errors import UserError
from rlhf_forge.modules.goldens import golden_rows, golden_values, setup_name
from rlhf_forge.modules.reward import RewardModule
from rlhf_forge.modules.roles import data_of

METRICS = "forge_metrics"
NUM_GOLDEN = 8


class ArtefactWriter(Callback):
    """Writes ``artefact/`` when a stage has been trained to its end.

    The end is the last step, or where a callback of the config (EarlyStopping) said so: the
    manifest tells both numbers. A run that ran out of time leaves no artefact.

    Args:
        fingerprint: Of config, seed, parents and data: what a new run is compared with.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.metrics: dict[str, float] = {}

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[METRICS] = self._metrics(trainer)

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.metrics = checkpoint.get(METRICS, {})

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.interrupted:
            return
        if was_cut_short(trainer):
            raise UserError(
                f"trainer.max_time: over after {batches_done(trainer)} of "
                f"{trainer.limit_train_batches} steps, so there is no artefact",
                hint="--ckpt_path last goes on, with a longer max_time: it counts from the start",
            )
        # Here and not when training ends: a run killed after its last step trains no more.
        if isinstance(pl_module, RewardModule):
            pl_module.calibrate()
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / "artefact"
            write_artefact(pl_module, folder, self.fingerprint, self._metrics(trainer))

    def _metrics(self, trainer: Trainer) -> dict[str, float]:
        """The last value of each; a run that trains no more has those of its checkpoint."""
        return self.metrics | {name: float(v) for name, v in trainer.callback_metrics.items()}


def write_artefact(
    module: Any, folder: Path, fingerprint: str, metrics: Mapping[str, float]
) -> None:
    """Write the role a stage trained, its tokenizer, model card and manifest into ``folder``.

    All is written beside the folder first, so that an artefact is whole or not there.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    weights = module.backbone.weights_of(module.role)
    write_adapter(weights, unfinished, base=module.backbone_config.path)
    tokenizer = module.template.tokenizer
    tokenizer.chat_template = module.template.text
    tokenizer.save_pretrained(unfinished)
    manifest = _manifest(module, fingerprint, metrics)
    write_manifest(manifest, unfinished)
    write_card(manifest, unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


def _manifest(module: Any, fingerprint: str, metrics: Mapping[str, float]) -> Manifest:
    rows = golden_rows(data_of(module).held_out, module.template, NUM_GOLDEN)
    with torch.no_grad():
        values = golden_values(module.backbone, module.role, rows)
    head = module.backbone.weights_of(module.role).head
    return Manifest(
        stage=module.stage,
        base=module.backbone_config.path,
        base_fingerprint=module.expected.base_fingerprint,
        precision=module.backbone_config.precision,
        device=setup_name(module.backbone.device),
        tokenizer_hash=module.expected.tokenizer_hash,
        template_hash=module.expected.template_hash,
        chat_template=module.template.text,
        fingerprint=fingerprint,
        parents=module.parents,
        reward_mean=head.mean if head else 0.0,
        reward_std=head.std if head else 1.0,
        golden=[
            Golden(tokens, targets, value)
            for (tokens, targets), value in zip(rows, values, strict=True)
        ],
        metrics=dict(metrics),
        steps=batches_done(module.trainer),
        planned_steps=int(module.trainer.limit_train_batches),
    )
