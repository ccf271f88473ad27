"""A run as the stages would leave it, with random weights: SFT, PPO and reward artefacts."""

from dataclasses import replace
from pathlib import Path

from rlhf_forge.artefact import Golden, Manifest, write_manifest
from rlhf_forge.backbone.adapter_files import write_adapter
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, Precision
from rlhf_forge.backbone.loading import content_fingerprint, load_base
from rlhf_forge.data.records import assistant, user
from rlhf_forge.data.render import load_template
from tests import tiny
from tests.tiny_tokenizer import mistral_tokenizer

CONTEXT = 256
STAGES = ("sft", "ppo", "reward")
QUESTIONS = ("What is the capital of Lomar?", "Is snow white?", "Grüße, 世界! 🦊")


def write_base(folder: Path, *, tied: bool = False, seed: int = 0) -> Path:
    """A random base with a tokenizer."""
    tiny.write_base(folder, tied=tied, seed=seed)
    mistral_tokenizer().save_pretrained(folder)
    return folder


def write_run(
    root: Path, *, base: Path, precision: Precision = "fp32", likelihood: float | None = None
) -> Path:
    """Artefacts of the stages sft, ppo and reward on ``base``; the run's folder.

    Args:
        root: Folder to write.
        base: Of `write_base`.
        precision: That the manifests name.
        likelihood: Of the reward model's head.
    """
    template = load_template(str(base), "mistral")
    backbone = Backbone(load_base(BackboneConfig(str(base), "fp32"), tiny.CPU), tiny.LORA)
    golden = []
    for question in QUESTIONS:
        tokens, targets = template.answered(user(question), assistant("Brevo is the capital."))
        golden.append(Golden(tokens, [int(target) for target in targets], 0.0))
    manifest = Manifest(
        stage="sft",
        base=str(base),
        base_fingerprint=content_fingerprint(base),
        precision=precision,
        device="cpu",
        tokenizer_hash=template.tokenizer_hash,
        template_hash=template.hash,
        chat_template=template.text,
        fingerprint=f"sft of {root.name}",
        golden=golden,
        metrics={"val/loss": 1.25},
    )
    for seed, stage in enumerate(STAGES):
        folder = root / stage / "artefact"
        weights = tiny.random_weights(backbone, seed=seed, head=stage == "reward")
        if head := weights.head:
            weights = replace(weights, head=replace(head, likelihood=likelihood))
            manifest = replace(manifest, reward_mean=head.mean, reward_std=head.std)
            manifest = replace(manifest, parents={"sft": f"sft of {root.name}"})
        write_adapter(weights, folder, base=str(base))
        template.tokenizer.chat_template = template.text
        template.tokenizer.save_pretrained(folder)
        write_manifest(
            replace(manifest, stage=stage, fingerprint=f"{stage} of {root.name}"), folder
        )
    return root
