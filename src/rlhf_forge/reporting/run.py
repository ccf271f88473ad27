"""A run, as its folder tells it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_forge.errors import UserError
from rlhf_forge.reporting.stage import (
    POLICIES,
    Missing,
    Stage,
    read_lines,
    read_object,
    stages_in,
)
from rlhf_forge.run_folder import LOGS, RESPONSES, SUMMARY
from rlhf_forge.words import nearest


@dataclass(frozen=True)
class Run:
    """All that is known of a run.

    Attributes:
        folder: Where it lies.
        stages: In the order of training.
        summary: Of the pipeline's evaluation; None if there was none.
        responses: Every evaluated response with its score.
        missing: What is not there.
    """

    folder: Path
    stages: list[Stage]
    summary: dict[str, Any] | None
    responses: list[dict[str, Any]]
    missing: list[Missing]

    def of_kind(self, *kinds: str) -> list[Stage]:
        """Its stages of these kinds."""
        return [stage for stage in self.stages if stage.kind in kinds]

    @property
    def policy(self) -> Stage | None:
        """The policy by which the run is known: that of the summary, else ppo, else dpo."""
        named = None if self.summary is None else duel_of(self.summary)[0]
        found = sorted(self.of_kind(*POLICIES), key=lambda s: POLICIES.index(s.kind))
        return next((s for s in found if s.name == named), found[0] if found else None)


def duel_of(summary: dict[str, Any]) -> tuple[str, str]:
    """The first policy, and the model that it started at, as the summary names them."""
    [(first, _, start)] = [k.rpartition("_vs_") for k in summary["win_rate"] if "_vs_" in k]
    return first, start


def read_run(place: str) -> Run:
    """Read a run's folder.

    Args:
        place: The folder, or the name of one in lightning_logs.

    Raises:
        UserError: If there is no such run, or no stage in it.
    """
    folder = next((path for path in (Path(place), LOGS / place) if path.is_dir()), None)
    if folder is None:
        known = [path.name for path in LOGS.iterdir()] if LOGS.is_dir() else []
        raise UserError(f"report: no such run: {place}", hint=nearest(Path(place).name, known))
    stages = stages_in(folder)
    if not stages:
        raise UserError(
            f"report: {folder} is no run: no stage in it",
            hint=f"the folder of a run holds sft/, reward/, ppo/, such as {LOGS}/quickstart",
        )
    missing = _missing_stages(stages)
    judged = any(stage.kind in POLICIES for stage in stages)
    so = "no evaluation before and after (pipeline makes one)"
    summary = read_object(folder / SUMMARY, missing if judged else [], so)
    so = "neither histograms nor scores of samples"
    responses = read_lines(folder / RESPONSES, missing if judged else [], so)
    return Run(folder, stages, summary, responses, missing + [m for s in stages for m in s.missing])


def _missing_stages(stages: list[Stage]) -> list[Missing]:
    kinds = {stage.kind for stage in stages}
    wanted = {"sft": {"sft"}, "reward": {"reward", "dpo"}, "ppo or dpo": set(POLICIES)}
    return [
        Missing(f"stage {name}", "it is not in this run")
        for name, some in wanted.items()
        if not kinds & some
    ]
