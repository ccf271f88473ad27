"""Steps in a row that cannot be taken: back to a good state, half the rates, at last the end."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlhf_forge.__main__ import main
from rlhf_forge.callbacks import guard
from rlhf_forge.callbacks.checkpoints import AtomicCheckpointIO
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.sft import SFTModule
from tests.tiny_project import QUIET, told

pytestmark = QUIET
STEPS = 12
FIT = ["fit", "--config", "sft.yaml", "--model.init_args.total_steps", str(STEPS)]
FIT += ["--trainer.limit_val_batches", "0", "--checkpoint_every", "1"]
LAST = Path("lightning_logs/x/sft/checkpoints/last.ckpt")
State = dict[str, dict[str, Tensor]]


class KilledError(Exception):
    """Stands for the end of the process in the middle of a run."""


class Watch:
    """Of a run whose loss is not a number at some steps."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.rates: list[float] = []


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is kept every two iterations, in place of ten."""
    monkeypatch.setattr(guard, "EVERY", 2)


def watched(
    bad: Collection[int], patch: pytest.MonkeyPatch, *, dies_at: int | None = None
) -> Watch:
    """From now on losses are not a number at ``bad`` steps; each step's start is noted."""
    watch, step, loss = Watch(), SFTModule.training_step, SFTModule._loss

    def number(module: SFTModule) -> int:
        return module.trainer.fit_loop.epoch_loop.total_batch_idx

    def noting(self: SFTModule, batch: Any, batch_idx: int) -> Any:
        if number(self) == dies_at:
            raise KilledError
        watch.states.append(guard._state_of(self, self.trainer.optimizers[0]))
        watch.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return step(self, batch, batch_idx)

    def spoilt(self: SFTModule, *arguments: Any) -> Tensor:
        return loss(self, *arguments) * (float("nan") if number(self) in bad else 1.0)

    patch.setattr(SFTModule, "training_step", noting)
    patch.setattr(SFTModule, "_loss", spoilt)
    return watch


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        one[name].keys() == other[name].keys()
        and all(torch.equal(one[name][key], other[name][key]) for key in one[name])
        for name in one
    )


def linear(step: int) -> float:
    return 2e-4 * (1 - step / STEPS)


def test_fewer_bad_steps_than_three_in_a_row_change_nothing_but_themselves(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watched({1, 2, 4, 5}, monkeypatch)
    assert main(FIT) == 0
    assert equal(watch.states[1], watch.states[3])
    assert not equal(watch.states[3], watch.states[4])
    assert watch.rates == pytest.approx([linear(step) for step in range(STEPS)])


@pytest.mark.usefixtures("often")
def test_three_in_a_row_go_back_to_the_kept_state_and_halve_the_rates(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watched({4, 5, 6}, monkeypatch)
    with pytest.warns(UserWarning, match="half the learning rates") as caught:
        assert main(FIT) == 0
    [warning] = [str(w.message) for w in caught if "half" in str(w.message)]
    assert warning == (
        "step 6: 3 optimiser steps in a row had a gradient that is not finite (of policy): back to "
        "step 2, and on with half the learning rates"
    )
    assert not equal(watch.states[4], watch.states[3])
    assert equal(watch.states[7], watch.states[3]), "the state behind step 2"
    assert watch.rates[:7] == pytest.approx([linear(step) for step in range(7)])
    assert watch.rates[7:] == pytest.approx([linear(step) / 2 for step in range(7, STEPS)])


def test_what_goes_wrong_at_once_has_nothing_to_go_back_to(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watched({0, 1, 2}, monkeypatch)
    with pytest.warns(UserWarning, match="nothing was learnt before, and on with half"):
        assert main(FIT) == 0
    assert equal(watch.states[0], watch.states[3])
    assert watch.rates[3] == pytest.approx(linear(3) / 2)


def test_after_two_returns_the_run_ends_with_the_cause_and_its_last_checkpoint(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched(range(2, STEPS), monkeypatch)
    with pytest.warns(UserWarning, match="half the learning rates"):
        error, hint = told(FIT, capsys)
    assert error == (
        "step 10: 3 optimiser steps in a row had a gradient that is not finite (of policy), though "
        "the learning rates were halved 2 times"
    )
    assert "lower learning rate" in hint
    assert f"the last checkpoint is {LAST}" in hint
    AtomicCheckpointIO().load_checkpoint(LAST)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("dies_at", [6, 7, 9])
def test_a_run_that_goes_on_does_as_it_would_have_done(dies_at: int, project: Path) -> None:
    bad = {4, 5, 6, 8, 9, 10}
    with pytest.MonkeyPatch.context() as patch:
        rates = watched(bad, patch).rates
        assert main([*FIT, "--run", "whole"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        watched(bad, patch, dies_at=dies_at)
        with pytest.raises(KilledError):
            main(FIT)
    with pytest.MonkeyPatch.context() as patch:
        watched(bad, patch)
        assert main([*FIT, "--ckpt_path", "last"]) == 0
    assert rates[-1] == pytest.approx(linear(STEPS - 1) / 4), "it went back twice"
    path = "lightning_logs/{}/sft/artefact/adapter_model.safetensors"
    whole, resumed = (load_file(path.format(run)) for run in ("whole", "x"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_steps_of_an_iteration_of_ppo_count_one_by_one(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulate = PPOModule._accumulate

    def spoilt(self: PPOModule, *arguments: Any) -> Any:
        stats = accumulate(self, *arguments)
        if self.iteration == 1:
            for p in self.backbone.parameters_of("value"):
                assert p.grad is not None
                p.grad.fill_(float("inf"))
        return stats

    monkeypatch.setattr(PPOModule, "_accumulate", spoilt)
    fit = ["fit", "--config", "ppo.yaml", "--trainer.limit_val_batches", "0"]
    with pytest.warns(UserWarning, match="half the learning rates") as caught:
        assert main([*fit, "--model.init_args.updates.ppo_epochs", "3"]) == 0
    assert str(caught[-1].message) == (
        "iteration 1: 3 optimiser steps in a row had a gradient that is not finite (of value): "
        "back to iteration 0, and on with half the learning rates"
    )
