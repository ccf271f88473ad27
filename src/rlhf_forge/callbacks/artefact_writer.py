"""The artefact that a finished stage leaves behind."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rlhf_forge.artefact import Golden, Manifest, write_manifest
from rlhf_forge.backbone.adapter_files import write_adapter
from rlhf_forge.backbone.scoring import ensemble_of
from rlhf_forge.callbacks.best import BestCheckpoint
from rlhf_forge.callbacks.checkpoints import batches_done, batches_in, was_cut_short
from rlhf_forge.card import write_card
from rlhf_forge.data.module import show
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.card_evidence import MOST_PAIRS, Evidence, gather
from rlhf_forge.evaluation.card_making import report_card
from rlhf_forge.evaluation.report_card import ReportCard, write_report
from rlhf_forge.modules.goldens import golden_rows, golden_values, setup_name
from rlhf_forge.modules.memory import within_tokens
from rlhf_forge.modules.reward import RewardModule
from rlhf_forge.modules.roles import data_of

METRICS = "forge_metrics"
NUM_GOLDEN = 8


class ArtefactWriter(Callback):
    """Writes ``artefact/`` when a stage has been trained to its end.

    The end is the last step, or where a callback of the config (EarlyStopping) said so: the
    manifest tells both numbers. A run that ran out of time leaves no artefact. Where the best state
    is kept, the artefact is that one.

    Args:
        fingerprint: Of config, seed, parents and data: what a new run is compared with.
        best: The callback that keeps the best state; none: the artefact is the last.
    """

    def __init__(self, fingerprint: str, best: BestCheckpoint | None = None) -> None:
        self.fingerprint, self.best = fingerprint, best
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
        pl_module.to(trainer.strategy.root_device)  # Lightning has taken it off the GPU
        # Here and not when training ends: a run killed after its last step trains no more.
        ended = Ended(batches_done(trainer), self._metrics(trainer))
        if self.best is not None:
            checkpoint = self.best.restored(trainer, pl_module)
            steps, metrics = batches_in(checkpoint), checkpoint[METRICS]
            ended = Ended(steps, metrics, kept_by=self.best.by.metric)
        if isinstance(pl_module, RewardModule):
            pl_module.calibrate()
        report = _reported(pl_module) if isinstance(pl_module, RewardModule) else None
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir) / "artefact"
            write_artefact(pl_module, folder, self.fingerprint, ended, report)

    def _metrics(self, trainer: Trainer) -> dict[str, float]:
        """The last value of each; a run that trains no more has those of its checkpoint."""
        return self.metrics | {name: float(v) for name, v in trainer.callback_metrics.items()}


@dataclass(frozen=True)
class Ended:
    """The state of a run that becomes its artefact.

    Attributes:
        steps: Batches that it was trained on.
        metrics: Their last values.
        kept_by: The metric by which this state is the best of its run; empty if it is the last.
    """

    steps: int
    metrics: Mapping[str, float]
    kept_by: str = ""


def write_artefact(
    module: Any,
    folder: Path,
    fingerprint: str,
    ended: Ended,
    report: ReportCard | None = None,
) -> None:
    """Write the role a stage trained, its tokenizer, cards and manifest into ``folder``.

    All is written beside the folder first, so that an artefact is whole or not there.

    Args:
        module: That trained it.
        folder: Replaced if it is there.
        fingerprint: Of the run.
        ended: How.
        report: Report card of a reward model.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    weights = ensemble_of(module.backbone, module.role)
    write_adapter(weights, unfinished, base=module.backbone_config.path)
    tokenizer = module.template.tokenizer
    tokenizer.chat_template = module.template.text
    tokenizer.save_pretrained(unfinished)
    manifest = _manifest(module, fingerprint, ended)
    write_manifest(manifest, unfinished)
    if report is not None:
        write_report(report, unfinished)
    write_card(manifest, unfinished, report)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


@torch.no_grad()
def _reported(module: RewardModule) -> ReportCard:
    """The report card of a trained reward model; its verdict is told, and logged.

    Of several processes each makes it: where memory runs out on one, all go on in smaller parts.
    """
    pairs = cast("list[PairExample]", data_of(module).held_out[:MOST_PAIRS])

    def gathered() -> Evidence:
        room = module.micro_batch_tokens
        return gather(module.backbone, module.role, module.template, pairs, max_tokens=room)

    card = report_card(within_tokens(module, gathered))
    for logger in module.trainer.loggers:
        logger.log_metrics({"card/bad_checks": len(card.of("bad"))}, batches_done(module.trainer))
    found = [f"{check.verdict}: {check.name}: {check.reason}" for check in card.of(card.verdict)]
    show([f"report card: {card.verdict}", *(found if card.verdict != "good" else [])])
    return card


def _manifest(module: Any, fingerprint: str, ended: Ended) -> Manifest:
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
        metrics=dict(ended.metrics),
        steps=ended.steps,
        kept_by=ended.kept_by,
        planned_steps=int(module.trainer.limit_train_batches),
    )
