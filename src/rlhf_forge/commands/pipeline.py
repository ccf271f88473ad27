"""All stages of a folder of configs, one after the other, and what came of it."""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlhf_forge.errors import UserError
from rlhf_forge.run_folder import (
    EXPORT,
    LOGS,
    RESPONSES,
    SUMMARY,
    TIMES,
    last_checkpoint,
)

if TYPE_CHECKING:
    from rlhf_forge.evaluation.summary import EvaluationSettings
    from rlhf_forge.parsed_stage import ParsedStage

ORDER = ("sft", "reward", "dpo", "ppo")


def pipeline(
    folder: str,
    run: str | None = None,
    seed: int = 0,
    data_seed: int = 0,
    precision: Literal["nf4", "bf16", "fp32"] | None = None,
) -> int:
    """Train every stage whose config lies in a folder, evaluate, export and print a table.

    A stage that is finished, with the same config, seed, parents and data, is not run again, and
    one that was stopped goes on from its last checkpoint. If any of these changed it runs into a
    fresh folder and the old one is kept beside it. Several configs of one stage need a name each
    (its key is name): all go on from one SFT and one reward model, and are held against SFT.

    Args:
        folder: Folder of configs, one a stage; and evaluate.yaml, if the judge is to be named.
        run: Name of the run; default: the folder's name.
        seed: Of training.
        data_seed: Of the data.
        precision: Hold the base in this precision instead of what the configs say.
    """
    started = time.perf_counter()  # with the imports: they are seconds too
    from rlhf_forge.commands.evaluation_of_run import settings_of
    from rlhf_forge.presets import find_config_folder

    place = find_config_folder(folder)
    name = run or place.resolve().name
    overrides = ["--run", name, "--seed_everything", str(seed), "--data.seed", str(data_seed)]
    if precision is not None:
        overrides += ["--model.init_args.backbone.precision", precision]
    stages = _stages(place, overrides)
    settings = settings_of(place)
    _look_ahead(stages)
    seconds = {stage: _run(parsed) for stage, parsed in stages.items()}
    asked = {"folder": folder, "seed": seed, "data_seed": data_seed, "precision": precision}
    status = _finish(LOGS / name, stages, settings, seconds, asked)
    sys.stderr.write(f"all: {time.perf_counter() - started:.0f} s\n")
    return status


def _stages(place: Path, overrides: list[str]) -> dict[str, "ParsedStage"]:
    """Each stage by its name, in the order of training."""
    from rlhf_forge.config_files import name_of
    from rlhf_forge.parsed_stage import parsed_stage

    paths: dict[str, Path] = {}
    for path in sorted(place.glob("*.yaml")):
        name = name_of(path)
        if name is None:
            continue
        if name in paths:
            raise UserError(
                f"{path}: a second config of stage {name} in {place}",
                hint="give one of them a name, like `name: mine`, and both are run",
            )
        paths[name] = path
    if not paths:
        raise UserError(f"pipeline: no stage config in {place}")
    found = [parsed_stage(["--config", str(path), *overrides]) for path in paths.values()]
    return {stage.name: stage for stage in sorted(found, key=_turn)}


def _turn(stage: "ParsedStage") -> int:
    """When it is run; a stage that is not ours after all others."""
    return ORDER.index(stage.stage) if stage.stage in ORDER else len(ORDER)


def _look_ahead(stages: dict[str, "ParsedStage"]) -> None:
    """Find the mistakes in all configs, and data that is not there, before the first stage runs."""
    from rlhf_forge.commands.evaluation_of_run import POLICY_STAGES
    from rlhf_forge.data.bad_records import POLICIES
    from rlhf_forge.data.functions import is_function
    from rlhf_forge.data.records import BrokenLine
    from rlhf_forge.data.sources import read_rows

    for parsed in stages.values():
        parsed.module()
        for misfit in parsed.misfits():
            raise misfit
        data = parsed.config.data
        for path, split in ((data.path, data.split), (data.validation, data.validation_split)):
            if path is not None and not is_function(path):
                origin, fields = next(read_rows(path, split=split, seed=data.seed))
                if isinstance(fields, BrokenLine):
                    POLICIES[data.bad_records](origin, fields)
        held_out = data.validation is not None or is_function(data.path) or data.validation_fraction
        if parsed.stage in POLICY_STAGES and not held_out:
            raise UserError(
                f"data.validation_fraction: 0 for stage {parsed.name}, but the pipeline evaluates "
                "on its held-out prompts",
                hint="raise it, or give data.validation a file",
            )


def _run(stage: "ParsedStage") -> float:
    """Train one stage unless it is finished; its seconds."""
    from rlhf_forge.callbacks.checkpoints import dependencies_in
    from rlhf_forge.cli import run_stage
    from rlhf_forge.fingerprint import has_finished

    artefact, times = stage.folder / "artefact", stage.folder / TIMES
    last = last_checkpoint(stage.config.run, stage.name)
    arguments = stage.typed
    if has_finished(artefact, stage.fingerprint):
        sys.stderr.write(f"{stage.name}: finished before, not run again ({artefact})\n")
        return _seconds_in(times)
    if last.is_file() and dependencies_in(last) == stage.dependencies:
        sys.stderr.write(f"{stage.name}: goes on from {last}\n")
        arguments = [*arguments, "--ckpt_path", str(last)]
    sys.stderr.write(f"\n{stage.name}\n")
    started = time.perf_counter()
    run_stage("fit", arguments)
    seconds = time.perf_counter() - started
    times.write_text(json.dumps({"seconds": seconds}))
    return seconds


def _seconds_in(path: Path) -> float:
    """Seconds that the stage took; 0 if it was not run by a pipeline."""
    return float(json.loads(path.read_text())["seconds"]) if path.is_file() else 0.0


def _finish(
    root: Path,
    stages: dict[str, "ParsedStage"],
    settings: "EvaluationSettings",
    seconds: dict[str, float],
    asked: dict[str, Any],
) -> int:
    """Evaluate, export, write summary.json, print the table and what to type next.

    Returns:
        1 if other tools see another model in the export than was trained, else 0.
    """
    import resource

    from rlhf_forge.commands.evaluation_of_run import evaluator_of
    from rlhf_forge.commands.export import write_export
    from rlhf_forge.commands.tables import print_summary

    started = time.perf_counter()
    evaluator = evaluator_of(settings, stages)
    if evaluator is None:
        sys.stderr.write(
            "no evaluation, no export: they need a stage ppo or dpo, and a stage reward or a judge "
            "in evaluate.yaml\n"
        )
        return 0
    summary: dict[str, Any] = {**asked, "judge": settings.judge, **evaluator.summary()}
    _write_responses(evaluator.responses(), root / RESPONSES)
    for policy, row in summary["policies"].items():
        row["seconds"] = seconds[policy]
    evaluated = time.perf_counter()
    first = next(iter(evaluator.policies))
    out = root / EXPORT / first
    status = write_export(root / first / "artefact", out)
    summary["seconds"] = seconds | {
        "evaluate": evaluated - started,
        "export": time.perf_counter() - evaluated,
    }
    # Linux counts ru_maxrss in KiB.
    summary["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    path = root / SUMMARY
    path.write_text(json.dumps(summary, indent=1) + "\n")
    print_summary(summary)
    sys.stderr.write(
        f"summary: {path}\n"
        f"export: {out}\n"
        f"next: python -m rlhf_forge chat {root}/{first}/artefact\n"
        f"      python -m rlhf_forge report {root}\n"
        f"      python -m rlhf_forge serve {root}\n"
        f"      tensorboard --logdir {root}\n"
    )
    return status


def _write_responses(rows: Iterable[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
