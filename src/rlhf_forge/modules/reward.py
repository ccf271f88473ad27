"""The reward model: one number an answer, fitted to which of two answers people preferred."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from typing_extensions import override

from rlhf_forge.artefact import Expected
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.collate import PairBatch, micro_batches, take
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.functional.losses import bradley_terry_loss
from rlhf_forge.generation.decode import Request, generate
from rlhf_forge.generation.rows import join
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.checkpoint_state import keep_trainable, require_same_tensors
from rlhf_forge.modules.goldens import require_golden
from rlhf_forge.modules.optimisation import adamw, apply_gradients, step_scheduler
from rlhf_forge.modules.responses import HELD_OUT
from rlhf_forge.modules.roles import (
    data_of,
    expected_of,
    open_backbone,
    read_parent,
    template_of,
)
from rlhf_forge.modules.settings import OptimizerSettings, require_positive

# A nat of surprise starts as half a unit of score: Adam moves a single number slowly.
LIKELIHOOD_START = 0.5


class RewardModule(LightningModule):
    """A Bradley-Terry reward model in the role ``reward``, started from the SFT adapter.

    Both answers of a pair go through one forward. When training ends, scores are centred and
    scaled on responses of the SFT policy, which is where PPO starts: there they have mean 0 and
    standard deviation 1.

    Args:
        backbone: The frozen base and the adapter's shape.
        sft: Artefact of the SFT stage; none: <run>/sft/artefact.
        total_steps: Optimiser steps of the run; a reward model overfits after one epoch.
        optimizer: Learning rate and schedule.
        label_smoothing: Share of labels taken to be wrong, below 0.5.
        centering_coef: Weight of (chosen + rejected)^2, which keeps scores around 0.
        reference_likelihood: Add how implausible the SFT model finds a response, with a learned
            weight, to its score. See `rlhf_forge.backbone.scoring.surprise`.
        micro_batch_tokens: Padded tokens of one forward and backward: the memory knob.
        calibration_samples: Responses of the SFT policy on which scores are centred and scaled.
        sampling: How those are drawn.
        seed: Of the head's start and of those responses.
    """

    stage = "reward"
    role = "reward"
    data_kind = "pairs"
    predicts = "pairs"

    def __init__(  # noqa: PLR0913 - an argument is a config key
        self,
        backbone: BackboneConfig,
        sft: str | None = None,
        total_steps: int = 500,
        optimizer: OptimizerSettings = OptimizerSettings(learning_rate=5e-5),
        label_smoothing: float = 0.0,
        centering_coef: float = 0.01,
        reference_likelihood: bool = False,
        micro_batch_tokens: int = 8192,
        calibration_samples: int = 256,
        sampling: Sampling = Sampling(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_positive(
            total_steps=total_steps,
            micro_batch_tokens=micro_batch_tokens,
            calibration_samples=calibration_samples,
        )
        self.automatic_optimization = False
        self.strict_loading = False
        self.backbone_config = backbone
        self.sft = sft
        self.total_steps = total_steps
        self.optimizer_settings = optimizer
        self.label_smoothing = label_smoothing
        self.centering_coef = centering_coef
        self.reference_likelihood = reference_likelihood
        self.micro_batch_tokens = micro_batch_tokens
        self.calibration_samples = calibration_samples
        self.sampling = sampling
        self.seed = seed
        self.parents: dict[str, str] = {}
        self.backbone: Backbone
        self.expected: Expected
        self.template: ChatTemplate

    @override
    def configure_model(self) -> None:
        if hasattr(self, "backbone"):
            return
        self.template = template_of(self)
        self.expected = expected_of(self.backbone_config, self.template)
        manifest, sft = read_parent(str(self.sft), self.expected, stage="sft")
        self.parents = {"sft": manifest.fingerprint}
        self.backbone = open_backbone(self.backbone_config, self.trainer.strategy.root_device)
        self.backbone.add_role("reference", sft, trainable=False)
        precision = self.backbone_config.precision
        require_golden(
            self.backbone, "reference", manifest, precision=precision, where=str(self.sft)
        )
        likelihood = LIKELIHOOD_START if self.reference_likelihood else None
        fresh = self.backbone.fresh_head(sft, seed=self.seed, likelihood=likelihood)
        self.backbone.add_role("reward", fresh, trainable=True)

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.optimizer_settings
        return adamw(
            {"reward": (self.backbone.parameters_of("reward"), settings.learning_rate)},
            schedule=settings.schedule,
            warmup_steps=settings.warmup_steps,
            total_steps=self.total_steps,
            eps=settings.eps,
        )

    @override
    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        num_pairs = len(batch.positions)
        totals = torch.zeros(2, device=self.device)
        for rows in self._cuts(batch):
            chosen, rejected = self._scores(take(batch, rows))
            loss = self._loss(chosen, rejected, num_pairs)
            self.manual_backward(loss)
            totals += torch.stack([loss.detach(), wins(chosen, rejected).sum() / num_pairs])
        step = apply_gradients(
            self,
            {"reward": self.backbone.parameters_of("reward")},
            max_grad_norm=self.optimizer_settings.max_grad_norm,
        )
        step_scheduler(self)
        self.log("reward/loss", totals[0], prog_bar=True)
        self.log("reward/accuracy", totals[1], prog_bar=True)
        self.log("reward/grad_norm", step.norms["reward"])
        self.log("reward/skipped", float(not step.taken))

    @override
    def validation_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Tensor]:
        return self._held_out("val", batch)

    @override
    def test_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Tensor]:
        return self._held_out("test", batch)

    @override
    def predict_step(self, batch: PairBatch, batch_idx: int) -> list[dict[str, float]]:
        held_out = self._held_out_scores(batch)
        rows = zip(held_out["chosen"].tolist(), held_out["rejected"].tolist(), strict=True)
        return [{"chosen_score": chosen, "rejected_score": rejected} for chosen, rejected in rows]

    def calibrate(self) -> None:
        """Centre and scale the scores on responses of the SFT policy to held-out prompts."""
        records = [example.record for example in data_of(self).held_out][: self.calibration_samples]
        prompts = [self.template.prompt(record.prompt) for record in records]
        requests = [
            Request(prompt, "reference", (self.seed, HELD_OUT, row))
            for row, prompt in enumerate(prompts)
        ]
        eos_ids = self.template.eos_ids
        responses = generate(self.backbone, requests, self.sampling, eos_ids, max_rows=64)
        scores = []
        for start in range(0, len(prompts), 64):
            part = slice(start, start + 64)
            tokens, mask = join(prompts[part], responses[part], self.device)
            with torch.no_grad():
                scores.append(score(self.backbone, tokens, mask))
        every = torch.cat(scores)
        std = float(every.std()) if len(every) > 1 else 1.0
        self.backbone.set_scale("reward", mean=float(every.mean()), std=max(std, 1e-6))

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        keep_trainable(checkpoint, self.backbone)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        require_same_tensors(checkpoint, self.backbone)

    def _cuts(self, batch: PairBatch) -> list[list[int]]:
        """Pairs by their longer side; each pair is two rows of the forward."""
        longer = batch.mask.sum(-1).view(2, -1).amax(0).tolist()
        return micro_batches(longer, max_tokens=max(1, self.micro_batch_tokens // 2))

    def _scores(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        scores = score(self.backbone, batch.tokens, batch.response)
        chosen, rejected = scores.view(2, -1)
        return chosen, rejected

    def _loss(self, chosen: Tensor, rejected: Tensor, num_pairs: int) -> Tensor:
        return bradley_terry_loss(
            chosen,
            rejected,
            num_pairs=num_pairs,
            centering_coef=self.centering_coef,
            label_smoothing=self.label_smoothing,
        )

    def _held_out(self, name: str, batch: PairBatch) -> dict[str, Tensor]:
        scores = self._held_out_scores(batch)
        count = len(batch.positions)
        loss = self._loss(scores["chosen"], scores["rejected"], count)
        self.log(f"{name}/loss", loss, batch_size=count)
        self.log(f"{name}/accuracy", wins(**scores).mean(), batch_size=count, prog_bar=True)
        return scores

    def _held_out_scores(self, batch: PairBatch) -> dict[str, Tensor]:
        count = len(batch.positions)
        scores = torch.empty(2, count, device=self.device)
        for rows in self._cuts(batch):
            scores[:, rows] = torch.stack(self._scores(take(batch, rows)))
        return {"chosen": scores[0], "rejected": scores[1]}


def wins(chosen: Tensor, rejected: Tensor) -> Tensor:
    """1 where the preferred answer scores higher, 0.5 for equal scores, else 0."""
    return (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
