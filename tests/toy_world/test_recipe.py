from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlhf_forge.toy_world import quiz, recipe


class CutError(Exception):
    """Stands for a power cut."""


@pytest.mark.slow
def test_a_cut_run_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiz, "greedy_accuracy", lambda *_, **__: {})
    monkeypatch.setattr(quiz, "verdict_accuracy", lambda *_, **__: {})
    monkeypatch.setattr(recipe, "ROWS", 2)
    batch = 2 * recipe.LENGTH

    def run(name: str) -> recipe.Run:
        folder = tmp_path / name
        return recipe.Run(folder, folder / "snapshots", 4 * batch, 2 * batch, seed=0)

    recipe.train(run("whole"))
    update, steps = recipe._update, []

    def cut_in_the_fourth_step(*args: Any, **kwargs: Any) -> float:
        steps.append(1)
        if len(steps) == 4:
            raise CutError
        return update(*args, **kwargs)

    monkeypatch.setattr(recipe, "_update", cut_in_the_fourth_step)
    with pytest.raises(CutError):
        recipe.train(run("cut"))
    monkeypatch.setattr(recipe, "_update", update)
    recipe.train(run("cut"))

    whole = load_file(tmp_path / "whole" / "model.safetensors")
    resumed = load_file(tmp_path / "cut" / "model.safetensors")
    assert all((whole[name] == resumed[name]).all() for name in whole)
    assert len((tmp_path / "cut" / "train_log.jsonl").read_text().splitlines()) == 2


def test_the_learning_rate_rises_and_falls_in_each_phase() -> None:
    rates = [recipe._phase_and_lr(step, 4000)[1] for step in range(4000)]
    assert rates[0] < rates[10] < rates[100] == rates[1500] == 3e-3
    assert rates[2999] < 1e-5
    assert rates[3000] < rates[3010] < rates[3100] == 1e-3
    assert rates[3999] < 1e-5


def test_no_token_sees_another_document() -> None:
    seen = recipe._within_documents(torch.tensor([[1, 7, 1, 8, 9]]))[0, 0] == 0
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
