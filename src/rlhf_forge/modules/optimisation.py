"""One optimiser step, the same in every stage."""

import math
from collections.abc import Mapping, Sequence

from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from rlhf_forge.backbone.bitsandbytes_guard import import_peft


def adamw(
    groups: Mapping[str, tuple[Sequence[nn.Parameter], float]],
    *,
    schedule: str,
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
    import_peft()  # transformers' schedules import it; unguarded that may run a kernel of the hub
    from transformers import get_scheduler

    optimizer = AdamW(
        [{"params": list(p), "lr": lr, "name": name} for name, (p, lr) in groups.items()],
        eps=eps,
        weight_decay=0.0,
    )
    # The one called constant has no warm-up.
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(name, optimizer, warmup_steps, total_steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}


def apply_gradients(
    module: LightningModule,
    groups: Mapping[str, Sequence[nn.Parameter]],
    *,
    max_grad_norm: float,
) -> dict[str, float]:
    """Clip each group by its own norm and take the optimiser's step; gradients are gone after.

    Returns:
        Norm before clipping by group. If one is not finite no step was taken.
    """
    optimizer = module.optimizers()
    assert isinstance(optimizer, LightningOptimizer)
    norms = {name: float(clip_grad_norm_(p, max_grad_norm)) for name, p in groups.items()}
    if all(math.isfinite(norm) for norm in norms.values()):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norms


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
