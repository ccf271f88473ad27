"""The artefact that a finished stage leaves behind."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rlhf_forge.artefact import Golden, Manifest, write_manifest
from rlhf_forge.backbone.adapter_files import write_adapter
from rlhf_forge.card import write_card
from rlhf_forge.errors import UserError
from rlhf_forge.modules.goldens import golden_rows, golden_values, setup_name
from rlhf_forge.modules.reward import RewardModule
from rlhf_forge.modules.roles import data_of

NUM_GOLDEN = 8


class ArtefactWriter(Callback):
    """Writes ``artefact/`` when a stage has been trained to its end.

    Args:
        fingerprint: Of config, seed, parents and data: what a new run is compared with.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self.trained = False

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained = True

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.interrupted:
            return
        if not self.trained:
            _require_whole_run(trainer)
        # Here and not when training ends: a run killed after its last step trains no more.
        if isinstance(pl_module, RewardModule):
            pl_module.calibrate()
        if trainer.is_global_zero:
            write_artefact(pl_module, Path(trainer.default_root_dir) / "artefact", self.fingerprint)


def _require_whole_run(trainer: Trainer) -> None:
    """Refuse a checkpoint of a finished run that was shorter than this one.

    Raises:
        UserError: Lightning would train nothing, and the artefact would be that of the other run.
    """
    done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    wanted = trainer.limit_train_batches
    if done < wanted:
        raise UserError(
            f"ckpt_path: that run ended after {done} steps, so it does not go on to {wanted}",
            hint="start a new run of that length",
        )


def write_artefact(module: Any, folder: Path, fingerprint: str) -> None:
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
    manifest = _manifest(module, fingerprint)
    write_manifest(manifest, unfinished)
    write_card(manifest, unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


def _manifest(module: Any, fingerprint: str) -> Manifest:
    rows = golden_rows(data_of(module).held_out, module.template, NUM_GOLDEN)
    with torch.no_grad():
        values = golden_values(module.backbone, module.role, rows)
    head = module.backbone.weights_of(module.role).head
    metrics = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
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
        metrics=metrics,
    )
