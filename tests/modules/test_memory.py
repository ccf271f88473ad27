"""Where the GPU's memory is full a step is taken in smaller parts, with the same result."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rlhf_forge.__main__ import main
from rlhf_forge.artefact import read_manifest
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.callbacks import artefact_writer
from rlhf_forge.callbacks.checkpoints import AtomicCheckpointIO
from rlhf_forge.data.collate import micro_batches
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.card_evidence import gather
from rlhf_forge.modules import reward
from rlhf_forge.modules.calibration import scale_on
from rlhf_forge.modules.memory import Cuts, within_memory, within_rows, within_tokens
from tests.modules.test_dpo import CONFIG as DPO
from tests.tiny_project import QUIET, told

pytestmark = QUIET
STAGES = ("sft", "reward", "dpo", "ppo")
# Padded tokens of one forward that there is room for: about two of the tiny project's rows.
ROOM = {"sft": 60, "reward": 60, "dpo": 60, "ppo": 35}
GROWN = "the GPU's memory was full: micro_batch_tokens is "


class Sizes(nn.Module):
    """A module with rows of four tokens each, and a gradient that is what it was given."""

    def __init__(self, micro_batch_tokens: int = 100, max_rows: int = 64) -> None:
        super().__init__()
        self.micro_batch_tokens, self.max_rows = micro_batch_tokens, max_rows
        self.weight = nn.Parameter(torch.zeros(()))
        self.attempts: list[Cuts] = []

    def cut(self) -> Cuts:
        return micro_batches([4] * 8, max_tokens=self.micro_batch_tokens)


def adding(module: Sizes, room: int) -> Callable[[Cuts], int]:
    """Adds 1 to the gradient for each row; runs out of memory at more than ``room`` rows."""

    def attempt(cuts: Cuts) -> int:
        module.attempts.append(cuts)
        for rows in cuts:
            torch.autograd.backward(module.weight * len(rows))
            if len(rows) > room:
                raise torch.OutOfMemoryError
        return len(cuts)

    return attempt


def gradient(module: Sizes) -> float:
    assert module.weight.grad is not None
    return module.weight.grad.item()


def test_rows_are_cut_smaller_until_they_fit_and_what_failed_counts_for_nothing() -> None:
    module = Sizes()
    with pytest.warns(UserWarning, match=GROWN) as caught:
        assert within_memory(module, module.cut, adding(module, room=3)) == 3
    assert gradient(module) == 8
    assert [max(map(len, cuts)) for cuts in module.attempts] == [8, 6, 3]
    assert module.micro_batch_tokens == 12
    assert len(caught) == 2


def test_a_size_that_changes_nothing_is_not_tried() -> None:
    module = Sizes(micro_batch_tokens=6400)
    within_memory(module, module.cut, adding(module, room=7))
    assert len(module.attempts) == 2
    assert module.micro_batch_tokens == 25


def test_what_fits_is_left_alone() -> None:
    module = Sizes()
    assert within_memory(module, module.cut, adding(module, room=8)) == 1
    assert module.micro_batch_tokens == 100


def test_with_one_row_at_a_time_the_run_ends_in_one_line() -> None:
    module = Sizes()
    with pytest.raises(
        UserError, match="the GPU's memory is full with one row at a time"
    ) as caught:
        within_memory(module, module.cut, adding(module, room=0))
    assert "gradient_checkpointing" in str(caught.value.hint)
    assert len(module.attempts[-1]) == 8


def test_fewer_rows_are_generated_at_once_until_they_fit() -> None:
    module, tried = Sizes(max_rows=64), []

    def attempt() -> str:
        tried.append(module.max_rows)
        if module.max_rows > 3:
            raise torch.OutOfMemoryError
        return "done"

    with pytest.warns(UserWarning, match="max_rows is 2 from now on"):
        assert within_rows(module, 20, attempt) == "done"
    assert tried == [64, 10, 5, 2]


def test_with_one_response_at_a_time_too() -> None:
    def attempt() -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(UserError, match="full with generating one response at a time"):
        within_rows(Sizes(), 20, attempt)


def test_what_cuts_its_rows_itself_is_given_a_smaller_size_until_it_fits() -> None:
    module, tried = Sizes(micro_batch_tokens=100), []

    def attempt(room: int) -> str:
        tried.append(module.micro_batch_tokens)
        if module.micro_batch_tokens > room:
            raise torch.OutOfMemoryError
        return "done"

    with pytest.warns(UserWarning, match=GROWN):
        assert within_tokens(module, lambda: attempt(room=30)) == "done"
    assert tried == [100, 50, 25]
    with pytest.raises(UserError, match="the GPU's memory is full with one row at a time"):
        within_tokens(module, lambda: attempt(room=0))
    assert tried[-1] == 1


# -- stages ------------------------------------------------------------------------------------


@pytest.fixture
def stages(trained: Path) -> Path:
    Path("dpo.yaml").write_text(DPO.replace("micro_batch_tokens: 128", "micro_batch_tokens: 8192"))
    return trained


def fit(stage: str, *more: str) -> list[str]:
    return ["fit", "--config", f"{stage}.yaml", "--trainer.limit_val_batches", "0", *more]


@contextmanager
def little_memory(room: int, *, rows: int = 100, scoring: bool = True) -> Iterator[dict[str, int]]:
    """Larger forwards run out of it; counted are those that did.

    Args:
        room: Padded tokens of a forward.
        rows: Of generation.
        scoring: Whether forwards without gradients run out too.
    """
    failed = {"forward": 0, "generation": 0}
    states, next_logits = Backbone.states, Backbone.next_logits

    def limited(self: Backbone, tokens: Tensor, wanted: Tensor) -> Tensor:
        if tokens.numel() > room and (scoring or torch.is_grad_enabled()):
            failed["forward"] += 1
            raise torch.OutOfMemoryError
        return states(self, tokens, wanted)

    def limited_rows(self: Backbone, tokens: Tensor, *others: Any) -> Tensor:
        if len(tokens) > rows:
            failed["generation"] += 1
            raise torch.OutOfMemoryError
        return next_logits(self, tokens, *others)

    with pytest.MonkeyPatch.context() as patch:
        # A report card's probes are longer than any row of a step: there is no room for them.
        patch.setattr("rlhf_forge.callbacks.artefact_writer._reported", lambda module: None)
        patch.setattr(Backbone, "states", limited)
        patch.setattr(Backbone, "next_logits", limited_rows)
        yield failed


@contextmanager
def first_gradient(stage: str) -> Iterator[list[Tensor]]:
    """The gradient of the first step, flat and by group."""
    where = f"rlhf_forge.modules.{stage}.apply_gradients"
    found: list[Tensor] = []
    from rlhf_forge.modules.optimisation import apply_gradients

    def noting(module: Any, groups: dict[str, list[nn.Parameter]], **options: Any) -> Any:
        if not found:
            for parameters in groups.values():
                flat = [p.grad.flatten() for p in parameters if p.grad is not None]
                found.append(torch.cat(flat).clone())
        return apply_gradients(module, groups, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, noting)
        yield found


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_in_smaller_parts_has_the_same_gradient(stage: str, stages: Path) -> None:
    with first_gradient(stage) as whole:
        assert main(fit(stage, "--run", "y", *parents(stage))) == 0
    with (
        little_memory(ROOM[stage]) as failed,
        first_gradient(stage) as parted,
        pytest.warns(UserWarning, match=GROWN),
    ):
        assert main(fit(stage)) == 0
    assert failed["forward"] > 0
    assert len(whole) == len(parted) == (2 if stage == "ppo" else 1)
    for one, other in zip(whole, parted, strict=True):
        assert one.norm() > 0
        assert (one - other).norm() <= 1e-5 * one.norm()
    metrics = [
        read_manifest(Path(f"lightning_logs/{run}/{stage}/artefact")).metrics for run in "xy"
    ]
    loss = "objective/score" if stage == "ppo" else f"{stage}/loss"
    assert metrics[0][loss] == pytest.approx(metrics[1][loss], rel=1e-4)


def parents(stage: str) -> list[str]:
    keys = {"reward": ["sft"], "dpo": ["sft"], "ppo": ["sft", "reward"]}.get(stage, [])
    words = ((f"--model.init_args.{key}", f"lightning_logs/x/{key}/artefact") for key in keys)
    return [word for pair in words for word in pair]


@pytest.mark.parametrize("stage", ["dpo", "ppo"])
def test_memory_that_runs_out_behind_scoring_lets_the_first_check_pass(
    stage: str, stages: Path
) -> None:
    with little_memory(ROOM[stage], scoring=False) as failed:
        assert main(fit(stage)) == 0
    assert failed["forward"] > 0


def test_the_check_of_a_ratio_is_still_one_where_the_parts_changed(stages: Path) -> None:
    from rlhf_forge.modules.checks import require_unit_ratio

    require_unit_ratio(1.0001, 5e-9, same_cuts=False)
    with pytest.raises(UserError, match="self-test: the first minibatch's ratio is"):
        require_unit_ratio(1.0001, 5e-9)
    with pytest.raises(UserError, match="self-test: the first minibatch's ratio is"):
        require_unit_ratio(1.1, 5e-3, same_cuts=False)
    with pytest.raises(UserError, match="self-test: the first minibatch's ratio is"):
        require_unit_ratio(float("nan"), float("nan"), same_cuts=False)


@pytest.mark.parametrize("stage", STAGES)
def test_the_sizes_are_kept_in_the_checkpoint_and_a_run_goes_on_with_them(
    stage: str, stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_forge.callbacks.checkpoints import IterationCheckpoint

    once = fit(stage, "--checkpoint_every", "1")
    length = "total_iterations" if stage == "ppo" else "total_steps"
    once += [f"--model.init_args.{length}", "3", "--model.init_args.seed", "0"][:2]
    with little_memory(ROOM[stage], rows=2):
        assert main([*once, "--run", "y", *parents(stage)]) == 0
    saved = IterationCheckpoint.on_train_batch_end

    def dies(self: Any, trainer: Any, module: Any, *others: Any) -> None:
        saved(self, trainer, module, *others)
        raise InterruptedError

    with little_memory(ROOM[stage], rows=2), monkeypatch.context() as patch:
        patch.setattr(IterationCheckpoint, "on_train_batch_end", dies)
        with pytest.raises(InterruptedError):
            main(once)
    last = Path(f"lightning_logs/x/{stage}/checkpoints/last.ckpt")
    sizes = AtomicCheckpointIO().load_checkpoint(last)["sizes"]
    assert 1 < sizes[0] < 8192
    assert sizes[1] == (2 if stage == "ppo" else 64)
    with little_memory(ROOM[stage], rows=2) as failed:
        assert main([*once, "--ckpt_path", "last"]) == 0
    assert failed["forward"] == 0
    assert AtomicCheckpointIO().load_checkpoint(last)["sizes"][0] == sizes[0]
    files = [
        load_file(f"lightning_logs/{run}/{stage}/artefact/adapter_model.safetensors")
        for run in "xy"
    ]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])


def test_the_scale_and_the_card_of_a_reward_model_are_made_in_smaller_parts_too(
    stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_room_for(tokens: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def limited(*arguments: Any, max_tokens: int) -> Any:
            if max_tokens > tokens:
                raise torch.OutOfMemoryError
            return function(*arguments, max_tokens=max_tokens)

        return limited

    assert main(fit("reward", "--run", "y", *parents("reward"))) == 0
    monkeypatch.setattr(reward, "scale_on", with_room_for(2048, scale_on))
    monkeypatch.setattr(artefact_writer, "gather", with_room_for(512, gather))
    with pytest.warns(UserWarning, match=GROWN) as caught:
        assert main(fit("reward")) == 0
    sizes = [str(w.message).removeprefix(GROWN).split()[0] for w in caught]
    assert sizes == ["4096", "2048", "1024", "512"]
    whole, parted = (Path(f"lightning_logs/{run}/reward/artefact") for run in "yx")
    std = read_manifest(whole).reward_std
    assert read_manifest(parted).reward_std == pytest.approx(std, rel=1e-4)
    cards = [json.loads((folder / "card.json").read_text()) for folder in (whole, parted)]
    assert cards[0]["margin"]["value"] == pytest.approx(cards[1]["margin"]["value"], rel=1e-3)


def test_a_run_with_no_room_for_a_single_row_ends_in_one_line(
    stages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with little_memory(4):
        error, hint = told(fit("sft"), capsys)
    assert error == "the GPU's memory is full with one row at a time"
    assert hint
