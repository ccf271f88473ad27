"""Which models are served: artefacts that share one base, found and checked without weights."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rlhf_forge.artefact import (
    MANIFEST,
    Expected,
    Manifest,
    check_fits,
    read_manifest,
    reference_of,
)
from rlhf_forge.backbone.adapter_files import read_adapter, reads_likelihoods
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, Precision, precision_named
from rlhf_forge.backbone.loading import content_fingerprint, context_of, load_base
from rlhf_forge.data.render import ChatTemplate, load_template
from rlhf_forge.errors import UserError
from rlhf_forge.hub import base_folder

# Stages in the order they are run; the base comes before all of them.
STAGES = ("sft", "dpo", "ppo", "reward")
SCORING_STAGES = frozenset({"reward"})
BASE = "base"
# The role by which `score` finds the SFT model that a reward model may read likelihoods from.
REFERENCE = "reference"
# How a run keeps what a stage left before it was run again.
SET_ASIDE = re.compile(r".+\.\d+")


@dataclass(frozen=True)
class Weights:
    """All that is needed to load the models; plain data, so that it can cross processes.

    Attributes:
        base: The frozen base.
        adapters: Artefact folder of each role; None for the bare base.
    """

    base: BackboneConfig
    adapters: dict[str, Path | None]


@dataclass(frozen=True)
class ServedModels:
    """Models on one base, with one template.

    Attributes:
        weights: How to load them.
        policies: Names that can be talked to, the bare base first, the last trained stage last.
        reward_models: Names that give scores.
        template: Renders conversations for all of them.
        context: Most tokens of prompt and response together.
    """

    weights: Weights
    policies: tuple[str, ...]
    reward_models: tuple[str, ...]
    template: ChatTemplate
    context: int


def open_models(paths: Sequence[str], *, precision: Precision | None = None) -> ServedModels:
    """Find the artefacts in ``paths`` and check that they belong together; loads no weights.

    Args:
        paths: Artefact folders, or folders of runs whose stages' artefacts are all served.
        precision: How the base is held; None for how the artefacts were made.

    Raises:
        UserError: If a path holds no artefact, or they differ in base, tokenizer or template.
    """
    folders = [folder for path in paths for folder in artefacts_in(Path(path))]
    if not folders:
        raise UserError("serve: give at least one artefact or run folder")
    manifests = [read_manifest(folder) for folder in folders]
    first = manifests[0]
    template = load_template(str(folders[0]), "tokenizer")
    expected = Expected(
        base_fingerprint=content_fingerprint(base_folder(first.base)),
        tokenizer_hash=template.tokenizer_hash,
        template_hash=template.hash,
    )
    for manifest, folder in zip(manifests, folders, strict=True):
        check_fits(manifest, expected, folder)
    names = _names(folders, manifests)
    base = BackboneConfig(first.base, precision or _common_precision(manifests))
    adapters: dict[str, Path | None] = {BASE: None, **_reference(folders, manifests)}
    scoring = [m.stage in SCORING_STAGES for m in manifests]
    return ServedModels(
        weights=Weights(base, adapters | dict(zip(names, folders, strict=True))),
        policies=(BASE, *(n for n, scores in zip(names, scoring, strict=True) if not scores)),
        reward_models=tuple(n for n, scores in zip(names, scoring, strict=True) if scores),
        template=template,
        context=context_of(first.base),
    )


def load_models(weights: Weights, device: torch.device) -> Backbone:
    """The base on ``device`` with every adapter as a role of its model's name."""
    backbone = Backbone(load_base(weights.base, device), weights.base.lora)
    for role, folder in weights.adapters.items():
        if folder is None:
            backbone.add_bare_role(role)
        else:
            backbone.add_role(role, read_adapter(folder), trainable=False)
    return backbone.eval()


def artefacts_in(path: Path) -> list[Path]:
    """The artefact that ``path`` is, or those of a stage's or a run's folder.

    Of a run's policies that of the stage ppo is the last, whatever names the others have.

    Raises:
        UserError: If there is none.
    """
    first, *later = (path / stage / "artefact" for stage in STAGES)
    named = [
        folder
        for folder in sorted(path.glob("*/artefact"))
        if folder not in {first, *later} and not SET_ASIDE.fullmatch(folder.parent.name)
    ]
    candidates = [path, path / "artefact", first, *named, *later]
    found = [folder for folder in candidates if (folder / MANIFEST).is_file()]
    if not found:
        raise UserError(
            f"{path}: no artefact here ({MANIFEST} is missing), nor in its stages' folders",
            hint="give a run like lightning_logs/quickstart, or one of its artefact folders",
        )
    return found


def _names(folders: Sequence[Path], manifests: Sequence[Manifest]) -> list[str]:
    """Each model's name: its stage; where several are of the stage, what it is called in its run.

    Where several runs call one so, the run stands before it.
    """
    stages = [manifest.stage for manifest in manifests]
    called = [_name_of(folder.resolve().parent) for folder in folders]
    runs = [_name_of(folder.resolve().parent.parent) for folder in folders]
    names = [
        stage if stages.count(stage) == 1 else name if called.count(name) == 1 else f"{run}-{name}"
        for stage, name, run in zip(stages, called, runs, strict=True)
    ]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"serve: two artefacts would both be called {twice[0]}: give one of them")
    return names


def _reference(folders: Sequence[Path], manifests: Sequence[Manifest]) -> dict[str, Path | None]:
    """The role of the SFT model that reward models read likelihoods of, if there are such.

    Raises:
        UserError: If its artefact is not there, or two reward models would need different ones.
    """
    found = {
        manifest.parents.get("sft"): reference_of(folder, near=folders)
        for folder, manifest in zip(folders, manifests, strict=True)
        if manifest.stage in SCORING_STAGES and reads_likelihoods(folder)
    }
    if len(found) > 1:
        raise UserError(
            "serve: reward models that read likelihoods of different SFT models cannot be served "
            "together"
        )
    return {REFERENCE: found.popitem()[1]} if found else {}


def _name_of(folder: Path) -> str:
    """Name of a run's folder, or of a stage's in it, in letters a role may have."""
    return re.sub(r"[^\w-]", "-", folder.name)


def _common_precision(manifests: Sequence[Manifest]) -> Precision:
    held = {manifest.precision for manifest in manifests}
    if len(held) == 1:
        return precision_named(held.pop())
    raise UserError(
        f"serve: the artefacts were made on bases held as {', '.join(sorted(held))}",
        hint=f"choose one with --precision {' or '.join(sorted(held))}",
    )


def only(models: ServedModels, name: str) -> ServedModels:
    """``models`` without the adapters of all but ``name``."""
    adapters = {name: models.weights.adapters[name]}
    return replace(models, weights=replace(models.weights, adapters=adapters))
