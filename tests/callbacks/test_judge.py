"""The judge is asked about the first policy, every so many iterations, and about the last."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from rlhf_forge.__main__ import main
from rlhf_forge.artefact import read_manifest
from tests.tiny_project import QUIET

pytestmark = QUIET
FOLDER = Path("lightning_logs/x/ppo")
CALLS: list[int] = []


def falls(prompts: list[Any], responses: list[str], records: list[Any]) -> list[float]:
    """Less at every call."""
    CALLS.append(len(responses))
    return [-float(len(CALLS))] * len(responses)


def judged(iterations: int, *more: str) -> list[tuple[int, float]]:
    """All that a run of so many iterations logs of the judge."""
    CALLS.clear()
    callbacks = "[{class_path: rlhf_forge.callbacks.judge.Judge, "
    callbacks += f"init_args: {{function: '{__name__}:falls', number: 3, every: 2}}}}]"
    fit = ["fit", "--config", "ppo.yaml", "--trainer.callbacks", callbacks, *more]
    assert main([*fit, "--model.init_args.total_iterations", str(iterations)]) == 0
    events = EventAccumulator(str(FOLDER))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("judge/score")]


@pytest.mark.parametrize(
    ("iterations", "asked"), [(1, [0, 1]), (2, [0, 2]), (3, [0, 2, 3]), (4, [0, 2, 4])]
)
def test_a_chart_has_the_iterations_behind_the_judged_policy(
    iterations: int, asked: list[int], trained: Path
) -> None:
    found = judged(iterations)
    assert found == [(at, -float(call)) for call, at in enumerate(asked, 1)]
    assert set(CALLS) == {3}


def test_the_artefact_is_the_policy_that_the_judge_liked_best(trained: Path) -> None:
    judged(5, "--keep_best.metric", "judge/score")
    manifest = read_manifest(FOLDER / "artefact")
    # Asked behind 2, 4 and 5 iterations, it likes each policy less than the one before.
    assert (manifest.steps, manifest.kept_by) == (2, "judge/score")
