"""All numbers of a report; the page shows these and no others."""

import json
import math
import shlex
from dataclasses import asdict, dataclass
from typing import Any

from rlhf_forge.reporting.frontier import Frontier, frontiers_of
from rlhf_forge.reporting.looks import looks_at
from rlhf_forge.reporting.run import Run
from rlhf_forge.reporting.samples import Sample, samples_of, spreads_of
from rlhf_forge.reporting.stage import Missing, Stage
from rlhf_forge.reporting.verdicts import Look
from rlhf_forge.run_folder import CONFIG

FORMAT = 1


@dataclass(frozen=True)
class Report:
    """What a page tells of a run.

    Attributes:
        run: Its folder.
        looks: What every rule found, the worst first.
        missing: What the run does not have.
        stages: As they were trained, with their curves.
        summary: Of the evaluation.
        frontiers: Score against KL.
        spreads: Tokens and scores of single responses, by model.
        samples: Responses to read.
        commands: That do it again.
        format: Version of the file.
    """

    run: str
    looks: list[Look]
    missing: list[Missing]
    stages: list[Stage]
    summary: dict[str, Any] | None
    frontiers: list[Frontier]
    spreads: dict[str, dict[str, list[float]]]
    samples: list[Sample]
    commands: list[str]
    format: int = FORMAT

    def as_json(self) -> str:
        """All of it, for other programs; null where a number is not finite."""
        return json.dumps(_finite(asdict(self)), indent=1, allow_nan=False, default=str)


def report_of(run: Run) -> Report:
    """Everything there is to tell."""
    return Report(
        run=str(run.folder),
        looks=looks_at(run),
        missing=run.missing,
        stages=run.stages,
        summary=run.summary,
        frontiers=[frontier for stage in run.stages for frontier in frontiers_of(stage)],
        spreads=spreads_of(run),
        samples=samples_of(run),
        commands=_commands(run),
    )


def _commands(run: Run) -> list[str]:
    """The pipeline's one line where it is known, else a line for each stage with a config."""
    again, summary = f"{run.folder.name}-again", run.summary or {}
    if "folder" in summary:
        words = ["pipeline", summary["folder"], "--run", again]
        for key in ("seed", "data_seed", "precision"):
            words += [f"--{key}", str(summary[key])] if summary[key] is not None else []
        lines = [words]
    else:
        configs = [run.folder / stage.name / CONFIG for stage in run.stages if stage.config]
        lines = [["fit", "--config", str(path), "--run", again] for path in configs]
    return [f"python -m rlhf_forge {shlex.join(words)}" for words in lines]


def _finite(value: Any) -> Any:
    """The value in which JSON's null stands for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
