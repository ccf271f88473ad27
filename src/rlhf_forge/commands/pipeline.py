"""All stages of a folder of configs, one after the other, and what came of it."""

import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

from rlhf_forge.errors import UserError
from rlhf_forge.run_folder import LOGS, last_checkpoint

ORDER = ("sft", "reward", "ppo")
# With reference: base there is no SFT stage.
EVALUATED = ("reward", "ppo")
TIMES = "seconds.json"
EXPORT = Path("export") / "ppo"


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
    fresh folder and the old one is kept beside it.

    Args:
        folder: Folder of configs, one a stage; and evaluate.yaml, if the judge is to be named.
        run: Name of the run; default: the folder's name.
        seed: Of training.
        data_seed: Of the data.
        precision: Hold the base in this precision instead of what the configs say.
    """
    from rlhf_forge.presets import find_config_folder

    started = time.perf_counter()
    place = find_config_folder(folder)
    name = run or place.resolve().name
    overrides = ["--run", name, "--seed_everything", str(seed), "--data.seed", str(data_seed)]
    if precision is not None:
        overrides += ["--model.init_args.backbone.precision", precision]
    stages = _stages(place, overrides)
    _look_ahead(place, stages)
    seconds = {stage: _run(stage, arguments, name) for stage, arguments in stages.items()}
    status = _finish(place, name, stages, seconds, {"seed": seed, "data_seed": data_seed})
    sys.stderr.write(f"all: {time.perf_counter() - started:.0f} s\n")
    return status


def _stages(place: Path, overrides: list[str]) -> dict[str, list[str]]:
    """The command line of each stage, in the order of training."""
    from rlhf_forge.config_files import stage_of

    found: dict[str, list[str]] = {}
    for path in sorted(place.glob("*.yaml")):
        stage = stage_of(path)
        if stage is None:
            continue
        if stage in found:
            raise UserError(f"{path}: a second config of stage {stage} in {place}")
        found[stage] = ["--config", str(path), *overrides]
    if not found:
        raise UserError(f"pipeline: no stage config in {place}")
    return {stage: found[stage] for stage in ORDER if stage in found}


def _look_ahead(place: Path, stages: dict[str, list[str]]) -> None:
    """Find the mistakes in all configs, and data that is not there, before the first stage runs."""
    from rlhf_forge.commands.evaluation_of_run import settings_of
    from rlhf_forge.data.sources import is_function, read_rows
    from rlhf_forge.parsed_stage import parsed_stage

    settings_of(place)
    for arguments in stages.values():
        parsed = parsed_stage(arguments)
        parsed.module()
        for misfit in parsed.misfits():
            raise misfit
        data = parsed.config.data
        for path, split in ((data.path, data.split), (data.validation, data.validation_split)):
            if path is not None and not is_function(path):
                next(read_rows(path, split=split, seed=data.seed))


def _run(stage: str, arguments: list[str], name: str) -> float:
    """Train one stage unless it is finished; its seconds."""
    from rlhf_forge.callbacks.checkpoints import dependencies_in
    from rlhf_forge.cli import run_stage
    from rlhf_forge.fingerprint import has_finished
    from rlhf_forge.parsed_stage import parsed_stage

    parsed = parsed_stage(arguments)
    folder, artefact, last = parsed.folder, parsed.folder / "artefact", last_checkpoint(name, stage)
    times = folder / TIMES
    if has_finished(artefact, parsed.fingerprint):
        sys.stderr.write(f"{stage}: finished before, not run again ({artefact})\n")
        return _seconds_in(times)
    if last.is_file() and dependencies_in(last) == parsed.dependencies:
        sys.stderr.write(f"{stage}: goes on from {last}\n")
        arguments = [*arguments, "--ckpt_path", str(last)]
    sys.stderr.write(f"\n{stage}\n")
    started = time.perf_counter()
    run_stage("fit", arguments)
    seconds = time.perf_counter() - started
    times.write_text(json.dumps({"seconds": seconds}))
    return seconds


def _seconds_in(path: Path) -> float:
    """Seconds that the stage took; 0 if it was not run by a pipeline."""
    return float(json.loads(path.read_text())["seconds"]) if path.is_file() else 0.0


def _finish(
    place: Path,
    name: str,
    stages: dict[str, list[str]],
    seconds: dict[str, float],
    seeds: dict[str, int],
) -> int:
    """Evaluate, export, write summary.json, print the table and what to type next.

    Returns:
        1 if other tools see another model in the export than was trained, else 0.
    """
    import resource

    from rlhf_forge.commands.evaluation_of_run import evaluator_of
    from rlhf_forge.commands.export import write_export
    from rlhf_forge.commands.tables import print_summary

    root = LOGS / name
    if not set(EVALUATED) <= set(stages):
        lacking = f"{place} lacks one of {', '.join(EVALUATED)}"
        sys.stderr.write(f"no evaluation, no export: {lacking}\n")
        return 0
    started = time.perf_counter()
    summary: dict[str, Any] = {**seeds, **evaluator_of(place, stages).summary()}
    evaluated = time.perf_counter()
    status = write_export(root / "ppo" / "artefact", root / EXPORT)
    summary["seconds"] = seconds | {
        "evaluate": evaluated - started,
        "export": time.perf_counter() - evaluated,
    }
    # Linux counts ru_maxrss in KiB.
    summary["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    path = root / "summary.json"
    path.write_text(json.dumps(summary, indent=1) + "\n")
    print_summary(summary)
    sys.stderr.write(
        f"summary: {path}\n"
        f"export: {root / EXPORT}\n"
        f"next: python -m rlhf_forge chat {root}/ppo/artefact\n"
        f"      python -m rlhf_forge serve {root}\n"
        f"      tensorboard --logdir {root}\n"
    )
    return status
