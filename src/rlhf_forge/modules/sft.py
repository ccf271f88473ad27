"""Supervised fine-tuning: the policy learns to continue as the demonstrations do."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from typing_extensions import override

from rlhf_forge import ranks
from rlhf_forge.artefact import Expected
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.data.collate import PromptBatch, SequenceBatch, own_micro_batches, take
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.tokenize import Example
from rlhf_forge.functional.losses import sft_loss
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.checkpoint_state import keep_trainable, require_same_tensors
from rlhf_forge.modules.memory import Cuts, keep_sizes, restore_sizes, within_memory
from rlhf_forge.modules.optimisation import Step, adamw, apply_gradients, step_scheduler
from rlhf_forge.modules.responses import held_out_answers
from rlhf_forge.modules.roles import data_of, expected_of, open_backbone, template_of
from rlhf_forge.modules.settings import MicroBatch, OptimizerSettings, at_first, require_positive


class SFTModule(LightningModule):
    """LoRA fine-tuning of the role ``policy`` on demonstrations.

    One batch is one optimiser step; the loss is the mean over all target tokens of the step.

    Args:
        backbone: The frozen base and the adapter's shape.
        total_steps: Optimiser steps of the run.
        optimizer: Learning rate and schedule.
        micro_batch_tokens: Padded tokens of one forward and backward: the memory knob; auto: as
            many as the GPU has room for.
        sampling: How `predict` draws responses; at temperature 0 it takes the likeliest token.
        max_rows: Rows that `predict` generates at once: more is faster and needs more memory.
        seed: Of the adapter's start.
    """

    stage = "sft"
    role = "policy"
    data_kind = "demonstrations"
    predicts = "prompts"

    def __init__(
        self,
        backbone: BackboneConfig,
        total_steps: int = 1000,
        optimizer: OptimizerSettings = OptimizerSettings(),
        micro_batch_tokens: MicroBatch = 8192,
        sampling: Sampling = Sampling(),
        max_rows: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_positive(total_steps=total_steps, max_rows=max_rows)
        self.automatic_optimization = False
        self.strict_loading = False
        self.backbone_config = backbone
        self.total_steps = total_steps
        self.optimizer_settings = optimizer
        self.micro_batch_tokens = at_first(micro_batch_tokens)
        self.sampling = sampling
        self.max_rows = max_rows
        self.seed = seed
        self.parents: dict[str, str] = {}
        self.backbone: Backbone
        self.expected: Expected
        self.template: ChatTemplate

    @property
    def held_out(self) -> Sequence[Example]:
        """The examples that the module is not trained on."""
        return data_of(self).held_out

    @override
    def configure_model(self) -> None:
        if hasattr(self, "backbone"):
            return
        self.template = template_of(self)
        self.expected = expected_of(self.backbone_config, self.template)
        self.backbone = open_backbone(self.backbone_config, self.trainer.strategy.root_device)
        fresh = self.backbone.fresh_weights(seed=self.seed)
        self.backbone.add_role("policy", fresh, trainable=True)

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.optimizer_settings
        return adamw(
            {"policy": (self.backbone.parameters_of("policy"), settings.learning_rate)},
            schedule=settings.schedule,
            warmup_steps=settings.warmup_steps,
            total_steps=self.total_steps,
            eps=settings.eps,
        )

    @override
    def training_step(self, batch: SequenceBatch, batch_idx: int) -> dict[str, list[Step]]:
        num_tokens = int(batch.targets.sum())
        loss = ranks.summed(
            within_memory(
                self, partial(self._cuts, batch), partial(self._accumulate, batch, num_tokens)
            )
        )
        step = apply_gradients(
            self,
            {"policy": self.backbone.parameters_of("policy")},
            max_grad_norm=self.optimizer_settings.max_grad_norm,
        )
        step_scheduler(self)
        self.log("sft/loss", loss, prog_bar=True)
        self.log("sft/grad_norm", step.norms["policy"])
        self.log("sft/tokens", float(num_tokens))
        self.log("sft/skipped", float(not step.taken))
        return {"steps": [step]}

    @override
    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        self._log_held_out("val/loss", batch)

    @override
    def test_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        self._log_held_out("test/loss", batch)

    @override
    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        return held_out_answers(self, batch)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        keep_trainable(checkpoint, self.backbone)
        keep_sizes(checkpoint, self)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        require_same_tensors(checkpoint, self.backbone)
        restore_sizes(checkpoint, self)

    def _accumulate(self, batch: SequenceBatch, num_tokens: int, cuts: Cuts) -> Tensor:
        """Gradients of the batch, micro-batch by micro-batch, and its loss."""
        loss = torch.zeros((), device=self.device)
        for rows in cuts:
            micro_loss = self._loss(take(batch, rows), num_tokens)
            self.manual_backward(micro_loss)
            loss += micro_loss.detach()
        return loss

    def _cuts(self, batch: SequenceBatch) -> list[list[int]]:
        return own_micro_batches(
            batch.mask.sum(-1).tolist(),
            max_tokens=self.micro_batch_tokens,
            pads=self.backbone.pads,
        )

    def _loss(self, part: SequenceBatch, num_tokens: int) -> Tensor:
        with self.backbone.using("policy"):
            log_probs, _ = self.backbone.log_probs(part.tokens, part.targets, temperature=1.0)
        return sft_loss(log_probs, part.targets, num_tokens=num_tokens)

    def _log_held_out(self, name: str, batch: SequenceBatch) -> None:
        num_tokens = int(batch.targets.sum())
        losses = within_memory(
            self,
            partial(self._cuts, batch),
            lambda cuts: [self._loss(take(batch, rows), num_tokens) for rows in cuts],
        )
        own = torch.stack(losses).sum() if losses else torch.zeros((), device=self.device)
        # Weighted by tokens, so the mean over batches is the mean over tokens.
        self.log(name, ranks.summed(own), batch_size=num_tokens, prog_bar=True)
