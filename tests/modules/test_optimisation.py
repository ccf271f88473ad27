from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import SGD, Optimizer
from torch.testing import assert_close
from typing_extensions import override

from rlhf_forge.modules.optimisation import (
    Schedule,
    Step,
    adamw,
    apply_gradients,
    drop_gradients,
    step_scheduler,
)
from tests import tiny

# Lightning asks torch in a way that torch is giving up.
pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")


class TwoGroups(LightningModule):
    """Two parameters under plain gradient descent of rate 1; a test writes the training step."""

    def __init__(self, step: Callable[["TwoGroups"], None]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy = nn.Parameter(torch.zeros(4))
        self.value = nn.Parameter(torch.zeros(4))
        self.step = step

    @override
    def configure_optimizers(self) -> Optimizer:
        return SGD([self.policy, self.value], lr=1.0)

    @override
    def training_step(self, batch: int, batch_idx: int) -> None:
        self.step(self)


def run(step: Callable[[TwoGroups], None]) -> TwoGroups:
    return fitted(TwoGroups(step))


def fitted(module: TwoGroups) -> TwoGroups:
    tiny.trainer().fit(module, train_dataloaders=[0])
    return module


def applied(policy: list[float], value: list[float]) -> tuple[TwoGroups, Step]:
    """A module after one step with these gradients, and what was reported of it."""
    steps: list[Step] = []

    def step(module: TwoGroups) -> None:
        module.policy.grad, module.value.grad = torch.tensor(policy), torch.tensor(value)
        groups = {"policy": [module.policy], "value": [module.value]}
        steps.append(apply_gradients(module, groups, max_grad_norm=1.0))
        assert module.policy.grad is None
        assert module.value.grad is None

    return run(step), steps[0]


def test_a_step_goes_against_the_gradient_and_reports_each_groups_norm() -> None:
    module, step = applied([0.3, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.25])
    assert_close(module.policy.detach(), torch.tensor([-0.3, -0.4, 0.0, 0.0]))
    assert_close(module.value.detach(), torch.tensor([0.0, 0.0, 0.0, -0.25]))
    assert step.taken
    assert step.norms == pytest.approx({"policy": 0.5, "value": 0.25})


def test_groups_are_clipped_each_by_its_own_norm() -> None:
    module, step = applied([3e3, 4e3, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0])
    assert_close(module.policy.detach(), torch.tensor([-0.6, -0.8, 0.0, 0.0]))
    assert_close(module.value.detach(), torch.tensor([-0.5, 0.0, 0.0, 0.0]))
    assert step.taken
    assert step.norms == pytest.approx({"policy": 5e3, "value": 0.5})


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_takes_no_step_for_either_group(odd: float) -> None:
    module, step = applied([odd, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0])
    assert not module.policy.any()
    assert not module.value.any()
    assert not step.taken
    assert step.norms["value"] == 0.5
    assert not torch.tensor(step.norms["policy"]).isfinite()


def test_dropped_gradients_are_gone_and_no_step_is_taken() -> None:
    def step(module: TwoGroups) -> None:
        module.policy.grad = torch.ones(4)
        drop_gradients(module)
        assert module.policy.grad is None

    assert not run(step).policy.any()


# -- learning rates ----------------------------------------------------------------------------


def rates(schedule: Schedule, *, warmup: int, total: int = 8) -> list[list[float]]:
    """Learning rates of both groups at each step of the run."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    config: OptimizerLRSchedulerConfig = adamw(
        {"policy": (parameters[:1], 1.0), "value": (parameters[1:], 0.1)},
        schedule=schedule,
        warmup_steps=warmup,
        total_steps=total,
        eps=1e-5,
    )
    optimizer, scheduler = config["optimizer"], config["lr_scheduler"]
    assert isinstance(scheduler, dict)
    seen = []
    for _ in range(total):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler["scheduler"].step()
    return seen


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", [1.0] * 8),
        ("cosine", [1.0, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806]),
    ],
)
def test_rates_fall_from_the_peak_as_the_schedule_says(
    schedule: Schedule, expected: list[float]
) -> None:
    policy, value = zip(*rates(schedule, warmup=0), strict=True)
    assert policy == pytest.approx(expected, rel=1e-4)
    assert value == pytest.approx([0.1 * rate for rate in expected], rel=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "constant", "cosine"])
def test_rates_rise_to_the_peak_over_the_warm_up_and_no_step_has_rate_0(
    schedule: Schedule,
) -> None:
    policy = [both[0] for both in rates(schedule, warmup=4)]
    assert policy[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert min(policy) > 0


def test_the_groups_are_named_and_nothing_decays() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    config = adamw(
        {"policy": ([parameter], 1.0)}, schedule="linear", warmup_steps=0, total_steps=2, eps=1e-5
    )
    (group,) = config["optimizer"].param_groups
    assert (group["name"], group["weight_decay"], group["eps"]) == ("policy", 0.0, 1e-5)


def test_the_scheduler_moves_when_told() -> None:
    seen = []

    class Scheduled(TwoGroups):
        @override
        def configure_optimizers(self) -> OptimizerLRSchedulerConfig:  # type: ignore[override]
            return adamw(
                {"policy": ([self.policy], 1.0)},
                schedule="linear",
                warmup_steps=0,
                total_steps=2,
                eps=1e-5,
            )

    def step(module: TwoGroups) -> None:
        groups = {"policy": [module.policy]}
        module.policy.grad = torch.ones(4)
        apply_gradients(module, groups, max_grad_norm=1.0)
        step_scheduler(module)
        optimizer = module.optimizers()
        assert not isinstance(optimizer, list)
        seen.append(optimizer.param_groups[0]["lr"])

    fitted(Scheduled(step))
    assert seen == [0.5]
