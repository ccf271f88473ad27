"""Where gradients stop being numbers: back to weights that were good, at half the rates."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from typing_extensions import override

from rlhf_forge.callbacks.checkpoints import last_of
from rlhf_forge.errors import UserError
from rlhf_forge.modules.optimisation import Step

# One odd batch is skipped and forgotten; this many steps in a row are no fault of the data.
MOST_MISSED = 3
# A quarter of the rate that did not help is no rate to go on halving.
MOST_RETURNS = 2
# Iterations between two kept states. Keeping one costs a copy of what trains and of Adam's moments
# to the CPU: as little as a step is good, but as much as a few of a small model.
EVERY = 10
# What a checkpoint holds of the guard.
STATE = ("missed", "returns", "good", "kept_at", "kept")


class DivergenceGuard(Callback):
    """Goes back where optimiser steps in a row cannot be taken, and on with half the rates.

    A step whose gradient is not finite is never taken (`apply_gradients`), so weights stay whole,
    and yet no step can be taken from them any more. It goes back to a good iteration of the last
    `EVERY`. That state lies in the CPU's memory, and in the checkpoint: a run that goes on from one
    does as it would have done.

    Raises:
        UserError: If that has been done `MOST_RETURNS` times, and was no help.
    """

    def __init__(self) -> None:
        self.missed = 0
        self.returns = 0
        self.good = 0
        self.kept_at = 0
        self.kept: dict[str, dict[str, torch.Tensor]] = {}

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        steps: Sequence[Step] = (outputs or {}).get("steps", ())
        for step in steps:
            self.missed = 0 if step.taken else self.missed + 1
            if self.missed == MOST_MISSED:
                self._go_back(trainer, pl_module, step)
                return
        if steps and all(step.taken for step in steps):
            self.good += 1
            if not self.kept or self.good == EVERY:
                self.kept = _state_of(pl_module, trainer.optimizers[0])
                self.kept_at, self.good = _number(trainer), 0

    @override
    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in STATE}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in STATE:
            setattr(self, name, state_dict[name])

    def _go_back(self, trainer: Trainer, module: LightningModule, step: Step) -> None:
        unit = "iteration" if getattr(module, "stage", "") == "ppo" else "step"
        groups = " and ".join(name for name, norm in step.norms.items() if not isfinite(norm))
        found = (
            f"{unit} {_number(trainer)}: {MOST_MISSED} optimiser steps in a row had a gradient "
            f"that is not finite (of {groups})"
        )
        if self.returns == MOST_RETURNS:
            raise UserError(
                f"{found}, though the learning rates were halved {MOST_RETURNS} times",
                hint="start again with a lower learning rate, and read the records of these steps; "
                f"{_where_last_is(trainer)}",
            )
        _put_back(self.kept, module, trainer.optimizers[0])
        _halve_rates(trainer)
        self.missed, self.good, self.returns = 0, 0, self.returns + 1
        where = f"back to {unit} {self.kept_at}" if self.kept else "nothing was learnt before"
        rank_zero_warn(f"{found}: {where}, and on with half the learning rates")


def _number(trainer: Trainer) -> int:
    """Of the running iteration, as charts count: from 0."""
    return trainer.fit_loop.epoch_loop.total_batch_idx


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _state_of(
    module: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, torch.Tensor]]:
    """Copies on the CPU of all that trains and of its moments, by the name of the parameter."""
    return {
        name: {
            key: tensor.detach().to("cpu", copy=True)
            for key, tensor in {"weight": p, **optimizer.state.get(p, {})}.items()
        }
        for name, p in _trained(module).items()
    }


def _put_back(
    kept: dict[str, dict[str, torch.Tensor]], module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    parameters = _trained(module)
    for name, tensors in kept.items():
        p = parameters[name]
        now = optimizer.state.pop(p, {})
        with torch.no_grad():
            p.copy_(tensors["weight"])
        moments = {key: tensor for key, tensor in tensors.items() if key != "weight"}
        if moments:
            optimizer.state[p] = {
                key: tensor.to(now[key].device, copy=True) for key, tensor in moments.items()
            }


def _halve_rates(trainer: Trainer) -> None:
    """For the rest of the run; scheduler and optimiser keep them, and so does a checkpoint."""
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        scheduler.base_lrs = [rate / 2 for rate in scheduler.base_lrs]
    for group in trainer.optimizers[0].param_groups:
        group["lr"] /= 2
        group["initial_lr"] /= 2


def _where_last_is(trainer: Trainer) -> str:
    last = last_of(trainer)
    return f"the last checkpoint is {last}" if last.is_file() else "no checkpoint is written yet"
