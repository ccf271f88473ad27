"""Putting roles on the base: fresh, or from the artefacts of earlier stages."""

from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import LightningModule

from rlhf_forge.artefact import Expected, Manifest, check_fits, read_manifest, require_stage
from rlhf_forge.backbone.adapter_files import AdapterWeights, read_adapter
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, LoraSpec
from rlhf_forge.backbone.loading import content_fingerprint, load_base
from rlhf_forge.backbone.scalar_head import HeadWeights
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


def read_parent(
    folder: str, expected: Expected, *, stage: str, lora: LoraSpec | None = None
) -> tuple[Manifest, AdapterWeights]:
    """The manifest and weights of a parent artefact that fits this run.

    Args:
        folder: The artefact's.
        expected: What it must have been made with.
        stage: Which it must be of.
        lora: Shape that this run's config names; None: that of the artefact is taken over.

    Raises:
        UserError: If it is missing, of another stage or shape, or made with another base or
            template.
    """
    manifest = read_manifest(Path(folder))
    require_stage(manifest, Path(folder), stage)
    check_fits(manifest, expected, Path(folder))
    weights = read_adapter(Path(folder))
    if lora not in {None, weights.lora}:
        raise UserError(
            f"model.init_args.backbone.lora: {lora} was given, but this stage goes on with the "
            f"adapter in {folder}, which has {weights.lora}",
            hint="leave backbone.lora out, or train that stage with this one",
        )
    return manifest, weights


def add_reference(
    backbone: Backbone, expected: Expected, *, precision: str, sft: str | None, seed: int
) -> tuple[dict[str, str], AdapterWeights]:
    """Add the frozen role ``reference``: the SFT adapter, or the bare base.

    Args:
        backbone: Without the role.
        expected: What the SFT artefact must fit.
        precision: Of the base, for the artefact's golden values.
        sft: The artefact; None for the bare base.
        seed: Of the adapter, where there is none to copy.

    Returns:
        Fingerprint of the parent, if there is one, and an adapter that is equal to the reference,
        for what starts from it: where that is the base, a fresh one that changes nothing.

    Raises:
        UserError: If the artefact is missing or does not fit.
    """
    if sft is None:
        backbone.add_bare_role("reference")
        return {}, backbone.fresh_weights(seed=seed)
    manifest, weights = read_parent(sft, expected, stage="sft", lora=backbone.lora)
    backbone.add_role("reference", weights, trainable=False)
    require_golden(backbone, "reference", manifest, precision=precision, where=sft)
    return {"sft": manifest.fingerprint}, weights


def add_ppo_roles(
    backbone: Backbone,
    expected: Expected,
    *,
    precision: str,
    sft: str | None,
    reward: str | None,
    reward_weight: float = 1.0,
    critic: bool,
    seed: int,
) -> dict[str, str]:
    """Policy, reference, reward and, with a critic, value, from their parents.

    The policy starts as a copy of the reference, and the critic as a copy of the reward model, in
    the units of the rewards. Without one the critic is a copy of the reference that foresees 0.

    Args:
        backbone: Without roles.
        expected: What the parents must fit.
        precision: Of the base, for the parents' golden values.
        sft: Artefact of the reference; None: the reference is the bare base.
        reward: Artefact of the reward model; None: the role is not added.
        reward_weight: What its scores are multiplied by to be rewards.
        critic: Whether there is one.
        seed: Of the policy's adapter, where there is no SFT adapter to copy.

    Returns:
        Fingerprint of each parent.

    Raises:
        UserError: If a parent is missing or does not fit.
    """
    parents, start = add_reference(backbone, expected, precision=precision, sft=sft, seed=seed)
    if reward is None:
        value = replace(start, head=HeadWeights(torch.zeros(1, backbone.model.config.hidden_size)))
    else:
        manifest, scorer = read_parent(reward, expected, stage="reward", lora=backbone.lora)
        require_its_reference(scorer, manifest, parents.get("sft"), where=reward)
        backbone.add_role("reward", scorer, trainable=False)
        require_golden(backbone, "reward", manifest, precision=precision, where=reward)
        parents["reward"] = manifest.fingerprint
        value = _critic(scorer, weight=reward_weight)
    backbone.add_role("policy", start, trainable=True)
    if critic:
        backbone.add_role("value", value, trainable=True)
    return parents


def require_its_reference(
    scorer: AdapterWeights, manifest: Manifest, sft: str | None, *, where: str
) -> None:
    """Refuse a reward model that would read likelihoods of another reference than in training.

    Args:
        scorer: The reward model.
        manifest: Of its artefact.
        sft: Fingerprint of this run's SFT artefact; None: the reference is the bare base.
        where: Its folder.
    """
    if scorer.head is None or scorer.head.likelihood is None or manifest.parents.get("sft") == sft:
        return
    theirs, ours = (
        "the bare base" if fingerprint is None else f"SFT artefact {fingerprint[:12]}"
        for fingerprint in (manifest.parents.get("sft"), sft)
    )
    raise UserError(
        f"{where}: this reward model reads how likely its reference finds an answer, which is "
        f"{theirs}, and this run's is {ours}",
        hint="set model.init_args.reference and sft as in the reward stage, or train it again",
    )


def _critic(scorer: AdapterWeights, *, weight: float) -> AdapterWeights:
    """A reward model as a critic starts from it: a value is of a prefix, so without the feature.

    Both are centred, so what is left of the score has mean 0 where PPO starts. Values are in the
    units of the rewards, in which the model's scores have a weight. Of an ensemble it is the first
    member.
    """
    head = scorer.head
    if head is None:
        raise UserError("the reward artefact has no head")
    plain = replace(head, likelihood=None, likelihood_mean=0.0)
    scaled = replace(plain, weight=weight * head.weight, mean=weight * head.mean)
    return replace(scorer, head=scaled, members=())
