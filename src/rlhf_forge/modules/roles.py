"""Putting roles on the base: fresh, or from the artefacts of earlier stages."""

from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import LightningModule

from rlhf_forge.artefact import Expected, Manifest, check_fits, read_manifest
from rlhf_forge.backbone.adapter_files import AdapterWeights, read_adapter
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.loading import content_fingerprint, load_base
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.errors import UserError
from rlhf_forge.hub import base_folder
from rlhf_forge.modules.goldens import require_golden


def open_backbone(config: BackboneConfig, device: torch.device) -> Backbone:
    """The base of ``config`` on ``device``, without roles."""
    model = load_base(config, device)
    return Backbone(model, config.lora, gradient_checkpointing=config.gradient_checkpointing)


def data_of(module: LightningModule) -> PreferenceDataModule:
    """The data module that the module trains with."""
    data = getattr(module.trainer, "datamodule", None)
    if not isinstance(data, PreferenceDataModule):
        raise UserError(f"{type(module).__name__} needs a PreferenceDataModule as datamodule")
    return data


def template_of(module: LightningModule) -> ChatTemplate:
    """The chat template that the module's data is rendered with."""
    return data_of(module).template


def expected_of(config: BackboneConfig, template: ChatTemplate) -> Expected:
    """What a parent artefact must have been made with to fit this run."""
    return Expected(
        base_fingerprint=content_fingerprint(base_folder(config.path)),
        tokenizer_hash=template.tokenizer_hash,
        template_hash=template.hash,
    )


def read_parent(folder: str, expected: Expected, *, stage: str) -> tuple[Manifest, AdapterWeights]:
    """The manifest and weights of a parent artefact that fits this run.

    Raises:
        UserError: If it is missing, of another stage, or made with another base or template.
    """
    manifest = read_manifest(Path(folder))
    if manifest.stage != stage:
        raise UserError(f"{folder}: a {manifest.stage} artefact, where one of {stage} is wanted")
    check_fits(manifest, expected, Path(folder))
    return manifest, read_adapter(Path(folder))


def add_ppo_roles(
    backbone: Backbone,
    expected: Expected,
    *,
    precision: str,
    sft: str | None,
    reward: str,
    critic: bool,
    seed: int,
) -> dict[str, str]:
    """Policy, reference, reward and, with a critic, value, from their parents.

    The policy starts as a copy of the reference, and the critic as a copy of the reward model.

    Args:
        backbone: Without roles.
        expected: What the parents must fit.
        precision: Of the base, for the parents' golden values.
        sft: Artefact of the reference; None: the reference is the bare base.
        reward: Artefact of the reward model.
        critic: Whether there is one.
        seed: Of the policy's adapter, where there is no SFT adapter to copy.

    Returns:
        Fingerprint of each parent.

    Raises:
        UserError: If a parent is missing or does not fit.
    """
    scorer_manifest, scorer = read_parent(reward, expected, stage="reward")
    parents = {"reward": scorer_manifest.fingerprint}
    if sft is None:
        backbone.add_bare_role("reference")
        policy = backbone.fresh_weights(seed=seed)
    else:
        manifest, policy = read_parent(sft, expected, stage="sft")
        parents["sft"] = manifest.fingerprint
        backbone.add_role("reference", policy, trainable=False)
        require_golden(backbone, "reference", manifest, precision=precision, where=sft)
    backbone.add_role("reward", scorer, trainable=False)
    require_golden(backbone, "reward", scorer_manifest, precision=precision, where=reward)
    backbone.add_role("policy", policy, trainable=True)
    if critic:
        backbone.add_role("value", _critic(scorer), trainable=True)
    return parents


def _critic(scorer: AdapterWeights) -> AdapterWeights:
    """A reward model as a critic starts from it: a value is of a prefix, so without the feature.

    Both are centred, so what is left of the score has mean 0 where PPO starts.
    """
    if scorer.head is None:
        raise UserError("the reward artefact has no head")
    return replace(scorer, head=replace(scorer.head, likelihood=None, likelihood_mean=0.0))
