"""The reward model: one number an answer, fitted to which of two answers people preferred."""

from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from typing_extensions import override

from rlhf_forge import ranks
from rlhf_forge.artefact import Expected
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.scoring import member_score, members_of, score
from rlhf_forge.data.collate import PairBatch, own_micro_batches, pair_tokens, take
from rlhf_forge.data.module import show
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.generation.rows import join
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.bootstrap import as_drawn, member_seeds
from rlhf_forge.modules.calibration import LEAST_RESPONSES, require_enough_held_out, scale_on
from rlhf_forge.modules.checkpoint_state import keep_trainable, require_same_tensors
from rlhf_forge.modules.memory import (
    Cuts,
    keep_sizes,
    restore_sizes,
    within_memory,
    within_tokens,
)
from rlhf_forge.modules.optimisation import Step, adamw, apply_gradients, step_scheduler
from rlhf_forge.modules.pair_labels import unread
from rlhf_forge.modules.responses import generated_held_out
from rlhf_forge.modules.reward_update import PairLoss, won
from rlhf_forge.modules.roles import (
    add_reference,
    data_of,
    expected_of,
    open_backbone,
    template_of,
)
from rlhf_forge.modules.settings import (
    MicroBatch,
    OptimizerSettings,
    at_first,
    require,
    require_above_zero,
    require_positive,
)

# What a nat of surprise is worth at the start: Adam moves a single number slowly.
LIKELIHOOD_START = 0.5


class RewardModule(LightningModule):
    """A Bradley-Terry reward model in the role ``reward``, started from the reference's adapter.

    The reference is the SFT policy, or the bare base: where PPO starts. Both answers of a pair go
    through one forward. When training ends, scores are centred and scaled on responses of the
    reference: there they have mean 0 and standard deviation 1.

    Args:
        backbone: The frozen base and the adapter's shape.
        sft: Artefact of the SFT stage; none: <run>/sft/artefact.
        reference: sft, or base where one starts from an instruct model without an SFT stage.
        total_steps: Optimiser steps of the run; a reward model overfits after one epoch.
        optimizer: Learning rate and schedule.
        label_smoothing: Share of labels taken to be wrong, below 0.5.
        centering_coef: Weight of (chosen + rejected)^2, which keeps scores around 0.
        margin_coef: Lead, in score units before scaling, that a pair owes for each unit of its
            margin (a gap of ratings, a strength); 0: margins are not used.
        soft_labels: Learn each pair's preference, the share of people who chose that side, where
            the data has one, and not 1.
        reference_likelihood: Add how implausible the reference finds a response, with a learned
            weight, to its score. See `rlhf_forge.backbone.scoring.surprise`.
        ensemble: Reward models that are trained together, each with a head of its own start and on
            a bootstrap sample of its own; PPO is given what `objective.ensemble` makes of them.
        micro_batch_tokens: Padded tokens of one forward and backward: the memory knob; auto: as
            many as the GPU has room for.
        calibration_samples: Responses of the reference on which scores are centred and scaled; at
            most one a held-out record.
        sampling: How those are drawn: as PPO will.
        max_rows: Rows generated at once: more is faster and needs more memory.
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
        margin_coef: float = 0.0,
        soft_labels: bool = False,
        reference_likelihood: bool = False,
        ensemble: int = 1,
        micro_batch_tokens: MicroBatch = 8192,
        calibration_samples: int = 256,
        sampling: Sampling = Sampling(),
        max_rows: int = 64,
        reference: Literal["sft", "base"] = "sft",
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_positive(
            total_steps=total_steps,
            max_rows=max_rows,
            ensemble=ensemble,
        )
        _require_usable(calibration_samples, sampling)
        self.automatic_optimization = False
        self.strict_loading = False
        self.backbone_config = backbone
        self.sft, self.reference = sft, reference
        self.total_steps = total_steps
        self.optimizer_settings = optimizer
        self.loss = PairLoss(label_smoothing, centering_coef, margin_coef, soft_labels)
        self.reference_likelihood = reference_likelihood
        self.ensemble = ensemble
        self.micro_batch_tokens = at_first(micro_batch_tokens)
        self.calibration_samples = calibration_samples
        self.sampling = sampling
        self.max_rows = max_rows
        self.seed = seed
        self.parents: dict[str, str] = {}
        self.backbone: Backbone
        self.expected: Expected
        self.template: ChatTemplate

    @override
    def setup(self, stage: str) -> None:
        if stage == "fit":
            require_enough_held_out(len(data_of(self).held_out))
            pairs = cast("list[PairExample]", data_of(self).train.examples)
            self.loss.require_labels(pairs)
            show(unread(pairs, self.loss.unread))

    @override
    def configure_model(self) -> None:
        if hasattr(self, "backbone"):
            return
        self.template = template_of(self)
        self.expected = expected_of(self.backbone_config, self.template)
        self.backbone = open_backbone(self.backbone_config, self.trainer.strategy.root_device)
        self.parents, start = add_reference(
            self.backbone,
            self.expected,
            precision=self.backbone_config.precision,
            sft=str(self.sft) if self.reference == "sft" else None,
            seed=self.seed,
        )
        likelihood = LIKELIHOOD_START if self.reference_likelihood else None
        first, *others = (
            self.backbone.fresh_head(start, seed=seed, likelihood=likelihood)
            for seed in member_seeds(self.seed, self.ensemble)
        )
        ensemble = replace(first, members=tuple(others))
        self.backbone.add_role("reward", ensemble, trainable=True)

    @property
    def trained_roles(self) -> list[str]:
        """Of the members of the ensemble; one if there is no ensemble."""
        return members_of(self.backbone, self.role)

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        settings = self.optimizer_settings
        return adamw(
            {
                role: (self.backbone.parameters_of(role), settings.learning_rate)
                for role in self.trained_roles
            },
            schedule=settings.schedule,
            warmup_steps=settings.warmup_steps,
            total_steps=self.total_steps,
            eps=settings.eps,
        )

    @override
    def training_step(self, batch: PairBatch, batch_idx: int) -> dict[str, list[Step]]:
        num_pairs = len(batch.positions)
        totals = ranks.summed(
            within_memory(
                self, partial(self._cuts, batch), partial(self._accumulate, batch, num_pairs)
            )
        )
        step = apply_gradients(
            self,
            {role: self.backbone.parameters_of(role) for role in self.trained_roles},
            max_grad_norm=self.optimizer_settings.max_grad_norm,
        )
        step_scheduler(self)
        self.log("reward/loss", totals[0], prog_bar=True)
        self.log("reward/accuracy", totals[1], prog_bar=True)
        self.log("reward/grad_norm", max(step.norms.values()))
        self.log("reward/skipped", float(not step.taken))
        return {"steps": [step]}

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
        """Centre and scale the scores on responses of the reference to held-out prompts.

        Raises:
            UserError: If they all score the same.
        """
        records = [example.record for example in data_of(self).held_out][: self.calibration_samples]
        prompts = [self.template.prompt(record.prompt) for record in records]
        responses = generated_held_out(self, "reference", prompts)
        tokens, mask = join(prompts, responses, self.backbone.device)
        within_tokens(
            self, lambda: scale_on(self.backbone, tokens, mask, max_tokens=self.micro_batch_tokens)
        )

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        keep_trainable(checkpoint, self.backbone)
        keep_sizes(checkpoint, self)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        require_same_tensors(checkpoint, self.backbone)
        restore_sizes(checkpoint, self)

    def _accumulate(self, batch: PairBatch, num_pairs: int, cuts: Cuts) -> Tensor:
        """Gradients of the batch, cut by cut, and its loss and accuracy, means over members."""
        totals = torch.zeros(2, device=self.device)
        for rows in cuts:
            part = take(batch, rows)
            for member, role in enumerate(self.trained_roles):
                if self.ensemble > 1:
                    part = as_drawn(take(batch, rows), self.seed, member)
                chosen, rejected = self._scores(part, role)
                loss = self.loss(part, chosen, rejected, num_pairs=num_pairs)
                self.manual_backward(loss)
                accuracy = won(part, chosen, rejected).sum() / num_pairs
                totals += torch.stack([loss.detach(), accuracy])
        return totals / len(self.trained_roles)

    def _cuts(self, batch: PairBatch) -> list[list[int]]:
        pads = self.backbone.pads
        tokens = pair_tokens(batch, pads=pads)
        return own_micro_batches(tokens, max_tokens=self.micro_batch_tokens, pads=pads)

    def _scores(self, batch: PairBatch, role: str) -> Tensor:
        scores = member_score(self.backbone, batch.tokens, batch.response, role=role)
        return scores.view(2, -1)

    def _held_out(self, name: str, batch: PairBatch) -> dict[str, Tensor]:
        scores = self._held_out_scores(batch)
        count = len(batch.positions)
        loss = self.loss(batch, **scores, num_pairs=count)
        self.log(f"{name}/loss", loss, batch_size=count)
        accuracy = won(batch, **scores).mean()
        self.log(f"{name}/accuracy", accuracy, batch_size=count, prog_bar=True)
        return scores

    def _held_out_scores(self, batch: PairBatch) -> dict[str, Tensor]:
        own = torch.zeros(2, len(batch.positions), device=self.device)

        def fill(cuts: Cuts) -> None:
            for rows in cuts:
                part = take(batch, rows)
                own[:, rows] = score(self.backbone, part.tokens, part.response).view(2, -1)

        within_memory(self, partial(self._cuts, batch), fill)
        scores = ranks.summed(own)
        return {"chosen": scores[0], "rejected": scores[1]}


def _require_usable(calibration_samples: int, sampling: Sampling) -> None:
    """Refuse what would fail behind the last step."""
    enough = calibration_samples >= LEAST_RESPONSES
    require(enough, "calibration_samples", f"{LEAST_RESPONSES} or more", calibration_samples)
    # Greedy responses are not what PPO samples, and scores are centred for PPO.
    require_above_zero(temperature=sampling.temperature)
