from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rlhf_forge.toy_world import quiz, recipe


class CutError(Exception):
    """Stands for a power cut."""


@pytest.mark.slow
def test_a_cut_run_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiz, "answer_shares", lambda *_, **__: {})
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


def test_in_each_phase_the_learning_rate_rises_stays_and_falls_to_nearly_nothing() -> None:
    steps = 3000
    phases = [recipe._phase_and_lr(step, steps) for step in range(steps)]
    for phase in recipe.PHASES:
        rates = [rate for at, rate in phases if at is phase]
        assert len(rates) == round(phase.share * steps)
        assert 0 < rates[0] < rates[3] < rates[20] <= rates[len(rates) // 3] == phase.peak_lr
        assert rates[-1] == pytest.approx(phase.peak_lr / (recipe.DECAY * len(rates)))
