"""What a run would stumble over, found in seconds: no weight is loaded and no file is written."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlhf_forge.artefact import MANIFEST, Expected, read_manifest
from rlhf_forge.backbone.adapter_files import AdapterWeights
from rlhf_forge.backbone.config import LoraSpec
from rlhf_forge.backbone.loading import content_fingerprint, require_weights
from rlhf_forge.backbone.sizes import adapter_numbers
from rlhf_forge.data.bad_records import Named, OnBad, skip
from rlhf_forge.data.functions import load_function
from rlhf_forge.data.module import PreferenceDataModule, show
from rlhf_forge.data.records import BrokenLine
from rlhf_forge.data.sources import read_rows
from rlhf_forge.data.tokenize import Example, PairExample
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.report_card import read_report
from rlhf_forge.hub import base_folder, base_here
from rlhf_forge.modules.roles import read_parent, require_its_reference
from rlhf_forge.reward_terms import names_function

T = TypeVar("T")
FLOAT32 = 4
# A checkpoint holds each weight and Adam's two moments of it, as they are and as they were where
# the guard would go back to; a new one is written beside the old.
NUMBERS_PER_WEIGHT = 2 * 3


class Findings(list[UserError]):
    """Mistakes, as many as can be found in one go."""

    def of(self, check: Callable[..., T], *arguments: Any, **options: Any) -> T | None:
        """What a check gives; None if it refuses, which is kept."""
        try:
            return check(*arguments, **options)
        except UserError as error:
            self.note([error])
            return None

    def note(self, mistakes: Iterable[UserError]) -> None:
        """Add those that are not known: several checks may need the same thing."""
        for mistake in mistakes:
            if str(mistake) not in map(str, self):
                self.append(mistake)


@dataclass(frozen=True)
class Writes:
    """What a run writes, in bytes.

    Attributes:
        checkpoint: One.
        checkpoints: Of those that stay, and the one that is being written.
        artefact: The trained role and the tokenizer.
        free: On the disk of the run's folder.
    """

    checkpoint: int
    checkpoints: int
    artefact: int
    free: int

    @property
    def total(self) -> int:
        """At most, at the same time."""
        return self.checkpoints * self.checkpoint + self.artefact


@dataclass(frozen=True)
class Base:
    """A base whose weights are all on this machine.

    Attributes:
        name: By which it is found here; see `base_here`.
        folder: Where it lies.
        fingerprint: Of its contents.
    """

    name: str
    folder: Path
    fingerprint: str


def whole_base(path: str) -> Base:
    """The base that a config calls ``path``.

    Raises:
        UserError: If it is not on this machine, or not whole.
    """
    name = base_here(path)
    folder = base_folder(name)
    require_weights(path, folder)
    return Base(name, folder, content_fingerprint(folder))


def read_data(
    settings: Mapping[str, Any], base: Base | None
) -> tuple[PreferenceDataModule | None, Findings]:
    """The data of a run, read and tokenized, and all that is wrong with it.

    Returns:
        None if it cannot be used, or there is no base: then it is only read.
    """
    findings, bad = Findings(), Named()
    on_bad = bad.note if settings["bad_records"] == "stop" else skip
    if base is None:
        findings.of(_read_only, settings, on_bad)
        return None, Findings([*bad.mistakes(), *findings])
    data = findings.of(PreferenceDataModule, **{**settings, "tokenizer": base.name})
    if data is None:
        return None, findings
    data.on_bad = on_bad
    lines = findings.of(data.read)
    if lines is None or bad.number:
        return None, Findings([*bad.mistakes(), *findings])
    show(lines)
    return data, findings


def _read_only(settings: Mapping[str, Any], on_bad: OnBad) -> None:
    for path, split in (("path", "split"), ("validation", "validation_split")):
        if settings[path] is not None:
            rows = read_rows(settings[path], split=settings[split], seed=settings["seed"])
            for origin, fields in rows:
                if isinstance(fields, BrokenLine):
                    on_bad(origin, fields)


def longest_of(data: PreferenceDataModule) -> int:
    """Tokens of the longest example."""
    return max(tokens_of(example) for example in (*data.train.examples, *data.held_out))


def fitting_parents(
    parents: Mapping[str, Path], lora: LoraSpec | None, expected: Expected
) -> tuple[dict[str, AdapterWeights], Findings]:
    """The adapters of a stage's parents, and what keeps it from building on them.

    Args:
        parents: Artefact folder of each; those that are missing are passed over.
        lora: Shape that the config gives.
        expected: What they must have been made with.
    """
    findings = Findings()
    found = {}
    for stage, folder in parents.items():
        if (folder / MANIFEST).is_file():
            parent = findings.of(read_parent, str(folder), expected, stage=stage, lora=lora)
            if parent is not None:
                found[stage] = parent
    if "reward" in found and not {"sft"} & parents.keys() - found.keys():
        manifest, scorer = found["reward"]
        sft = found["sft"][0].fingerprint if "sft" in found else None
        where = str(parents["reward"])
        findings.of(require_its_reference, scorer, manifest, sft, where=where)
    return {stage: weights for stage, (_, weights) in found.items()}, findings


def look_at_card(parents: Mapping[str, Path], *, accepted: bool | None) -> str | None:
    """What the report card says of the reward model that a stage optimises against, in one line.

    Args:
        parents: Artefact folder of each parent; those that are missing are passed over.
        accepted: The key `accept_bad_card`; None for a stage that has none: it optimises against
            no reward model.

    Returns:
        None if there is nothing to say.

    Raises:
        UserError: If the card is bad and that was not accepted, or the card is broken.
    """
    if accepted is None:
        return None
    folder = parents.get("reward")
    if folder is None:
        return "reward: functions only, so there is no report card"
    if not (folder / MANIFEST).is_file():
        return None
    card = read_report(folder)
    if card is None:
        shown = f"python -m rlhf_forge evaluate --reward {folder} PAIRS"
        return f"reward: no report card in {folder}; `{shown}` prints one"
    told: str = card.verdict
    if found := card.of(card.verdict) if card.verdict != "good" else []:
        told += f" ({', '.join(check.name for check in found)}): {found[0].reason}"
    if card.verdict == "bad" and not accepted:
        raise UserError(
            f"{folder}: its report card is {told}",
            hint="train a better reward model, or set model.init_args.accept_bad_card to true",
        )
    return f"reward: report card {told}"


def require_watchable(
    judge: str | None, held_out: int, sft: Path | None, expected: Expected
) -> None:
    """Refuse a watch that has no prompts, or whose judge is not there or does not fit.

    Args:
        judge: A module:function, or the artefact of a reward model; None: there is none.
        held_out: Number of held-out prompts.
        sft: Artefact of the run's reference; None: the bare base.
        expected: What an artefact must have been made with.

    Raises:
        UserError: Naming the key.
    """
    if held_out == 0:
        raise UserError(
            "watch: reads held-out prompts, and there are none",
            hint="raise data.validation_fraction, or give data.validation a file",
        )
    if judge is None:
        return
    try:
        if names_function(judge):
            load_function(judge)
            return
        manifest, scorer = read_parent(judge, expected, stage="reward")
        reference = None if sft is None else read_manifest(sft).fingerprint
        require_its_reference(scorer, manifest, reference, where=judge)
    except UserError as error:
        raise UserError(f"watch.judge: {error}", hint=error.hint) from error


def require_place(folder: Path) -> None:
    """Refuse a folder that cannot be made.

    Raises:
        UserError: If a file is in its way, or it may not be written there.
    """
    there = _nearest_that_exists(folder)
    if not there.is_dir():
        raise UserError(f"{there}: a file, where the run's folder {folder} should be")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"{there}: may not be written, and the run's folder {folder} should be there",
            hint="run it from a folder that is yours",
        )


def require_space(
    folder: Path, base: Base, *, rank: int, roles: int, checkpoints: int, members: int = 1
) -> Writes:
    """What a run writes, if there is room for it.

    Args:
        folder: Of the run's stage.
        base: Its base.
        rank: r of the adapters that it trains.
        roles: How many it trains.
        checkpoints: How many stay.
        members: How many of the roles are in the artefact.

    Raises:
        UserError: If there is not.
    """
    adapter = FLOAT32 * adapter_numbers(base.name, base.folder, rank=rank)
    tokenizer = sum(path.stat().st_size for path in base.folder.glob("tokenizer*"))
    free = shutil.disk_usage(_nearest_that_exists(folder)).free
    checkpoint = NUMBERS_PER_WEIGHT * roles * adapter
    writes = Writes(checkpoint, checkpoints + 1, members * adapter + tokenizer, free)
    if writes.total > free:
        raise UserError(
            f"{folder}: the run writes up to {as_size(writes.total)}, and {as_size(free)} are free",
            hint="free some space, or run it from a folder on another disk",
        )
    return writes


def as_size(size: int) -> str:
    """Bytes in the unit that reads well."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 2**10:.0f} KiB"


def tokens_of(example: Example) -> int:
    """Of an example; of a pair those of its longer side."""
    if isinstance(example, PairExample):
        return max(len(example.chosen), len(example.rejected))
    return len(example.tokens)


def _nearest_that_exists(folder: Path) -> Path:
    whole = folder.absolute()
    return next(place for place in (whole, *whole.parents) if place.exists())
