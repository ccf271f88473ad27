"""``fit --dry-run``: would it start, and what would it write?"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rlhf_forge.artefact import MANIFEST, Expected
from rlhf_forge.backbone.config import LoraSpec
from rlhf_forge.backbone.loading import context_of
from rlhf_forge.callbacks.checkpoints import require_same_run
from rlhf_forge.cli import ForgeCLI
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.modules.calibration import require_enough_held_out
from rlhf_forge.parsed_stage import SAMPLING_STAGES, ParsedStage
from rlhf_forge.preflight import (
    Findings,
    Writes,
    as_size,
    fitting_parents,
    longest_of,
    look_at_card,
    read_data,
    require_place,
    require_space,
    require_watchable,
    whole_base,
)
from rlhf_forge.run_folder import find_checkpoint
from rlhf_forge.stage_config import length_of, missing_parents, mistakes_in_lengths, parents_of


class Rehearsal(ForgeCLI):
    """A stage that is parsed, and instantiated only when it is asked to be."""

    before_instantiate_classes = ParsedStage.before_instantiate_classes
    instantiate_classes = ParsedStage.instantiate_classes


def dry_run(arguments: Sequence[str]) -> int:
    """Check a `fit` with everything it needs; loads no weights, writes and moves nothing.

    Args:
        arguments: What stands behind ``fit``, without --dry-run.

    Returns:
        1 if it would not start; all reasons are told at once.

    Raises:
        UserError: If the command line or a config cannot even be parsed.
    """
    stage = Rehearsal("fit", arguments)
    findings = Findings(stage.mistakes())
    module = instantiated(stage, findings)
    look_for_artefacts(stage, findings)
    data, writes = look_at_contents(stage, module, findings)
    for mistake in findings:
        hint = f"hint: {mistake.hint}\n" if mistake.hint else ""
        sys.stderr.write(f"error: {mistake}\n{hint}")
    if findings or data is None or writes is None:
        return 1
    sys.stdout.writelines(f"{line}\n" for line in told(stage, data, writes))
    return 0


def instantiated(stage: Rehearsal, findings: Findings) -> Any:
    """The stage's module, if its classes and the Trainer take what the config says."""
    module = findings.of(stage.module)
    if not findings:  # what is wrong with the Trainer's keys is told already
        findings.of(ForgeCLI.instantiate_classes, stage)
    return module


def look_for_artefacts(stage: Rehearsal, findings: Findings) -> None:
    """What the stage builds on or goes on from must be there."""
    config = stage.config
    arguments = config.model.init_args
    for mistake in missing_parents(arguments, stage=stage.stage, command_of=stage.command_of):
        findings.append(mistake)
    given = config.ckpt_path
    checkpoint = findings.of(lambda: find_checkpoint(given, stage.folder, word="fit"))
    if checkpoint is not None:
        findings.of(lambda: require_same_run(checkpoint, stage.dependencies))


def look_at_contents(
    stage: Rehearsal, module: Any, findings: Findings
) -> tuple[PreferenceDataModule | None, Writes | None]:
    """Base, data, parents and disk, as far as one can be looked at without the other."""
    config = stage.config
    base = findings.of(whole_base, config.model.init_args.backbone.path)
    data, mistakes = read_data(config.data.as_dict(), base)
    findings.note(mistakes)
    findings.of(lambda: require_place(stage.folder))
    if data is not None and stage.stage == "reward":
        findings.of(require_enough_held_out, len(data.held_out))
    if base is None or module is None:
        return data, None
    arguments = config.model.init_args
    parents = parents_of(arguments)
    findings.of(look_at_card, parents, accepted=arguments.get("accept_bad_card"))
    samples = stage.stage in SAMPLING_STAGES
    findings += mistakes_in_lengths(config, context=context_of(base.name), samples=samples)
    lora = module.backbone_config.lora
    rank = (lora or LoraSpec()).r
    if data is not None:
        template = data.template
        expected = Expected(base.fingerprint, template.tokenizer_hash, template.hash)
        adapters, misfits = fitting_parents(parents, lora, expected)
        findings += misfits
        if config.watch is not None:
            judge, prompts = config.watch.judge, len(data.held_out)
            findings.of(require_watchable, judge, prompts, parents.get("sft"), expected)
        rank = max([weights.lora.r for weights in adapters.values()], default=rank)
    roles = len(module.trained_roles) if module.stage == "ppo" else 1
    members = module.ensemble if module.stage == "reward" else 1
    kept = config.keep_checkpoints + (stage.kept_best() is not None)
    space = findings.of(
        lambda: require_space(  # asks for the folder, which a bad name has not
            stage.folder,
            base,
            rank=rank,
            roles=members * roles,
            members=members,
            checkpoints=kept,
        )
    )
    return data, space


def told(stage: Rehearsal, data: PreferenceDataModule, writes: Writes) -> Iterator[str]:
    """What would be done, and how to do it."""
    config, folder = stage.config, stage.folder
    yield f"stage: {stage.stage}, {config.model.class_path}"
    yield f"folder: {folder}"
    checkpoint = find_checkpoint(config.ckpt_path, folder, word="fit")
    if checkpoint is not None:
        yield f"goes on from: {checkpoint}"
    elif (folder / "artefact" / MANIFEST).is_file():
        yield "what is there now is kept beside it"
    yield (
        f"rows: {len(data.train.examples)} to train on, {len(data.held_out)} held out, "
        f"the longest of {longest_of(data)} tokens"
    )
    arguments = config.model.init_args
    card = look_at_card(parents_of(arguments), accepted=arguments.get("accept_bad_card"))
    if card is not None:
        yield card
    what = "iterations" if stage.stage == "ppo" else "steps"
    yield f"{what}: {length_of(config.model)}, of {data.batch_size} rows each"
    yield (
        f"writes: up to {as_size(writes.total)} ({writes.checkpoints} checkpoints of "
        f"{as_size(writes.checkpoint)}, artefact of {as_size(writes.artefact)}); "
        f"{as_size(writes.free)} are free"
    )
    yield f"next: python -m rlhf_forge fit {shlex.join(stage.typed)}"
