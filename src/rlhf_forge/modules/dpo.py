"""Direct preference optimisation: the policy learns from pairs, without a reward model."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from typing_extensions import override

from rlhf_forge.artefact import Expected
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.data.collate import (
    PairBatch,
    PromptBatch,
    all_micro_batches,
    own_micro_batches,
    pair_tokens,
)
from rlhf_forge.data.module import show
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.tokenize import Example, PairExample
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.checkpoint_state import keep_trainable, require_same_tensors
from rlhf_forge.modules.checks import require_untrained_loss, require_untrained_rewards
from rlhf_forge.modules.dpo_update import Loss, PairStats, PreferenceLoss, accumulate
from rlhf_forge.modules.memory import keep_sizes, restore_sizes, within_memory
from rlhf_forge.modules.optimisation import Step, adamw, apply_gradients, step_scheduler
from rlhf_forge.modules.pair_labels import LABELS, unread
from rlhf_forge.modules.reference_log_probs import (
    Cut,
    Plan,
    fingerprint_of,
    first_round,
    in_order,
    reference_log_probs,
)
from rlhf_forge.modules.responses import held_out_answers
from rlhf_forge.modules.reward_update import wins
from rlhf_forge.modules.roles import (
    add_reference,
    data_of,
    expected_of,
    open_backbone,
    template_of,
)
from rlhf_forge.modules.settings import MicroBatch, OptimizerSettings, at_first, require_positive


class DPOModule(LightningModule):
    """DPO of the role ``policy`` on preference pairs, held near ``reference``.

    The reference is the frozen SFT adapter and the policy starts as its copy. What the reference
    makes of the pairs is computed once, before training. A pair's implied reward is
    beta (log π − log π_ref) of each response; the loss widens chosen's lead over rejected.

    Args:
        backbone: The frozen base and the adapter's shape.
        sft: Artefact of the SFT stage; none: <run>/sft/artefact.
        reference: sft, or base where one starts from an instruct model without an SFT stage.
        total_steps: Optimiser steps of the run.
        loss: sigmoid (DPO; with label_smoothing conservative DPO), ipo (a fixed lead, on mean
            log-probs), robust (unbiased where label_smoothing of the labels are wrong).
        beta: Reward units per nat; the larger, the closer to the reference. For ipo the lead
            aimed at is 1 / (2 beta) nats a token.
        label_smoothing: Share of labels taken to be wrong, below 0.5; above 0 for robust, 0 for
            ipo.
        optimizer: Learning rate and schedule.
        micro_batch_tokens: Padded tokens of one forward and backward: the memory knob; auto: as
            many as the GPU has room for.
        sampling: How `predict` draws responses; at temperature 0 it takes the likeliest token.
        max_rows: Rows that `predict` generates at once: more is faster and needs more memory.
        seed: Of the policy's start where there is no SFT adapter, and of those responses.
    """

    stage = "dpo"
    role = "policy"
    data_kind = "pairs"
    predicts = "prompts"

    def __init__(  # noqa: PLR0913 - an argument is a config key
        self,
        backbone: BackboneConfig,
        sft: str | None = None,
        reference: Literal["sft", "base"] = "sft",
        total_steps: int = 500,
        loss: Loss = "sigmoid",
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        optimizer: OptimizerSettings = OptimizerSettings(learning_rate=2e-5),
        micro_batch_tokens: MicroBatch = 8192,
        sampling: Sampling = Sampling(),
        max_rows: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_positive(total_steps=total_steps, max_rows=max_rows)
        self.objective = PreferenceLoss(loss, beta, label_smoothing)
        self.automatic_optimization = False
        self.strict_loading = False
        self.backbone_config = backbone
        self.sft, self.reference = sft, reference
        self.total_steps = total_steps
        self.optimizer_settings = optimizer
        self.micro_batch_tokens = at_first(micro_batch_tokens)
        self.sampling = sampling
        self.max_rows = max_rows
        self.seed = seed
        self.parents: dict[str, str] = {}
        self.reference_sizes: dict[str, int] = {}
        self.backbone: Backbone
        self.expected: Expected
        self.template: ChatTemplate
        self.train_reference: Float[Tensor, "two examples"]
        self.held_out_reference: Float[Tensor, "two examples"]

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
        self.parents, start = add_reference(
            self.backbone,
            self.expected,
            precision=self.backbone_config.precision,
            sft=str(self.sft) if self.reference == "sft" else None,
            seed=self.seed,
        )
        self.backbone.add_role("policy", start, trainable=True)

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
    def on_fit_start(self) -> None:
        # Before Lightning's progress bar begins: a terminal shows one at a time.
        pairs, batches = self._trained_on(), _whole(self.trainer.limit_train_batches)
        show(unread(pairs, dict.fromkeys(LABELS, "DPO weighs every pair alike")))
        plan = partial(first_round, data_of(self).stream(), pairs, batches=batches)
        self.train_reference = self._reference_of("train", pairs, plan, bar=True)
        if self.trainer.limit_val_batches:
            self._read_held_out(self.trainer.limit_val_batches, bar=True)

    @override
    def training_step(self, batch: PairBatch, batch_idx: int) -> dict[str, list[Step]]:
        at = data_of(self).stream().example_at
        reference = self.train_reference[:, [at(p) for p in batch.positions.tolist()]]
        stats = self._accumulate(batch, reference, self.manual_backward)
        # Where memory ran out in the first step the two are equal but for rounding: not checked.
        same_cuts = self.micro_batch_tokens == self.reference_sizes["train"]
        if self.trainer.fit_loop.epoch_loop.total_batch_idx == 0 and same_cuts:
            self._check_start(batch, stats)
        step = apply_gradients(
            self,
            {"policy": self.backbone.parameters_of("policy")},
            max_grad_norm=self.optimizer_settings.max_grad_norm,
        )
        step_scheduler(self)
        chosen, rejected = stats.rewards
        self.log("dpo/loss", stats.loss, prog_bar=True)
        self.log("dpo/accuracy", wins(chosen, rejected).mean(), prog_bar=True)
        self.log("dpo/margin", (chosen - rejected).mean())
        self.log("dpo/chosen_log_prob", stats.log_probs[0].mean())
        self.log("dpo/chosen_log_ratio", stats.log_ratios[0].mean())
        self.log("dpo/grad_norm", step.norms["policy"])
        self.log("dpo/skipped", float(not step.taken))
        return {"steps": [step]}

    @override
    def on_validation_start(self) -> None:
        if not hasattr(self, "held_out_reference"):
            self._read_held_out(self.trainer.limit_val_batches)

    @override
    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        self._log_held_out("val", batch)

    @override
    def on_test_start(self) -> None:
        self._read_held_out(self.trainer.limit_test_batches)

    @override
    def test_step(self, batch: PairBatch, batch_idx: int) -> None:
        self._log_held_out("test", batch)

    @override
    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[dict[str, Any]]:
        return held_out_answers(self, batch)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        keep_trainable(checkpoint, self.backbone)
        keep_sizes(checkpoint, self)
        checkpoint["reference_sizes"] = dict(self.reference_sizes)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        require_same_tensors(checkpoint, self.backbone)
        restore_sizes(checkpoint, self)
        if self.trainer.state.fn == "fit":
            self.reference_sizes = checkpoint.get("reference_sizes", {})

    def _trained_on(self) -> list[PairExample]:
        return cast("list[PairExample]", data_of(self).train.examples)

    def _accumulate(
        self,
        batch: PairBatch,
        reference: Float[Tensor, "two pairs"],
        backward: Callable[[Tensor], object],
    ) -> PairStats:
        pads = self.backbone.pads
        tokens = pair_tokens(batch, pads=pads)
        return within_memory(
            self,
            lambda: own_micro_batches(tokens, max_tokens=self.micro_batch_tokens, pads=pads),
            lambda cuts: accumulate(
                self.backbone, batch, reference, self.objective, cuts=cuts, backward=backward
            ),
        ).put_together()

    def _reference_of(
        self, name: str, examples: list[PairExample], plan: Callable[[Cut], Plan], *, bar: bool
    ) -> Float[Tensor, "two examples"]:
        """What the reference makes of the examples, in micro-batches as they were at first."""

        def cut(batch: PairBatch) -> list[list[int]]:
            size, pads = self.reference_sizes.get(name, self.micro_batch_tokens), self.backbone.pads
            return all_micro_batches(pair_tokens(batch, pads=pads), max_tokens=size, pads=pads)

        bare = self.reference == "base"
        fingerprint = partial(
            fingerprint_of,
            examples,
            adapter=None if bare else self.backbone.weights_of("reference"),
            expected=self.expected,
            precision=self.backbone_config.precision,
            device=self.backbone.device,
        )
        found = reference_log_probs(
            self,
            examples,
            lambda: plan(cut),
            fingerprint=fingerprint,
            folder=Path(self.trainer.default_root_dir),
            bar=bar,
        )
        self.reference_sizes.setdefault(name, self.micro_batch_tokens)
        return found

    def _check_start(self, batch: PairBatch, stats: PairStats) -> None:
        """Before the first step; a pair met twice in it is known to the last bit but once."""
        first = batch.positions < len(self._trained_on())
        require_untrained_rewards(stats.rewards[:, first])
        if first.all():
            require_untrained_loss(stats.loss.item(), self.objective.untrained)

    def _read_held_out(self, limit: float, *, bar: bool = False) -> None:
        """What the reference makes of the held-out pairs that are asked for."""
        data = data_of(self)
        pairs = cast("list[PairExample]", data.held_out)
        batches = _whole(limit)
        plan = partial(in_order, pairs, batch_size=data.batch_size, batches=batches)
        self.held_out_reference = self._reference_of("held out", pairs, plan, bar=bar)

    def _log_held_out(self, name: str, batch: PairBatch) -> None:
        count = len(batch.positions)
        reference = self.held_out_reference[:, batch.positions]
        stats = self._accumulate(batch, reference, lambda loss: None)
        self.log(f"{name}/loss", stats.loss, batch_size=count)
        accuracy = wins(*stats.rewards).mean()
        self.log(f"{name}/accuracy", accuracy, batch_size=count, prog_bar=True)


def _whole(limit: float) -> int:
    """Batches that a limit of the Trainer's allows; where that is a share, all of them."""
    return limit if isinstance(limit, int) else sys.maxsize
