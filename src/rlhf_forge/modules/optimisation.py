"""One optimiser step, the same in every stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import cos, isfinite, pi
from typing import Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from rlhf_forge import ranks

Schedule = Literal["linear", "cosine", "constant"]


def adamw(
    groups: Mapping[str, tuple[Sequence[nn.Parameter], float]],
    *,
    schedule: Schedule,
    warmup_steps: int,
    total_steps: int,
    eps: float,
) -> OptimizerLRSchedulerConfig:
    """One AdamW over named groups with a learning rate each, all under the same schedule.

    Args:
        groups: (parameters, peak learning rate) by name.
        schedule: linear, cosine or constant.
        warmup_steps: Scheduler steps over which the rates rise from 0.
        total_steps: Scheduler steps of the whole run.
        eps: Adam's.
    """
    optimizer = AdamW(
        [{"params": list(p), "lr": lr, "name": name} for name, (p, lr) in groups.items()],
        eps=eps,
        weight_decay=0.0,
    )
    factor = partial(
        rate_factor, schedule=schedule, warmup_steps=warmup_steps, total_steps=total_steps
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor)}}


def rate_factor(step: int, *, schedule: Schedule, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step, from 0: above 0 at every step of the run.

    The usual schedules waste steps: their first of a warm-up has rate 0.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    falls = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 + 0.5 * cos(pi * progress)}
    return max(0.0, falls[schedule])


@dataclass(frozen=True)
class Step:
    """What became of an optimiser step.

    Attributes:
        norms: Gradient norm of each group before clipping.
        taken: False if a norm was not finite: then nothing was changed.
    """

    norms: dict[str, float]
    taken: bool


def apply_gradients(
    module: LightningModule,
    groups: Mapping[str, Sequence[nn.Parameter]],
    *,
    max_grad_norm: float,
) -> Step:
    """Clip each group by its own norm and take the optimiser's step; gradients are gone after.

    The gradients of all processes are added up first: each has those of its rows, of a loss that is
    divided by the counts of the whole step. A step with a norm that is not finite is not taken.
    """
    optimizer = module.optimizers()
    assert isinstance(optimizer, LightningOptimizer)
    if ranks.count() > 1:
        for parameters in groups.values():
            sum_gradients(parameters)
    norms = {name: float(clip_grad_norm_(p, max_grad_norm)) for name, p in groups.items()}
    taken = all(isfinite(norm) for norm in norms.values())
    if taken:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Step(norms, taken)


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in one go.

    A parameter that has none on one process, as it had no rows, has that of the others; one that
    has none on any, as it is not trained yet, still has none.
    """
    flat = [_gradient(p).flatten() for p in parameters]
    there = torch.tensor([float(p.grad is not None) for p in parameters])
    total = ranks.summed(torch.cat([there.to(flat[0]), *flat]))
    there, total = total[: len(flat)], total[len(flat) :]
    grads = torch.split(total, [len(part) for part in flat])
    for p, grad, ranks_with_it in zip(parameters, grads, there.tolist(), strict=True):
        p.grad = grad.view_as(p) if ranks_with_it else None


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def drop_gradients(module: LightningModule) -> None:
    """Forget the gradients accumulated so far; no step is taken."""
    optimizer = module.optimizers()
    assert isinstance(optimizer, LightningOptimizer)
    optimizer.zero_grad(set_to_none=True)


def step_scheduler(module: LightningModule) -> None:
    """Move the learning rates on by one step of the run."""
    scheduler = module.lr_schedulers()
    assert scheduler is not None
    assert not isinstance(scheduler, list)
    scheduler.step()
