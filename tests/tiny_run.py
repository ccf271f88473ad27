"""A run as the stages would leave it, with random weights: base, SFT, PPO and reward artefacts."""

from pathlib import Path

import torch
from transformers import MistralConfig, MistralForCausalLM

from rlhf_forge.artefact import Golden, Manifest, write_manifest
from rlhf_forge.backbone.adapter_files import AdapterWeights, write_adapter
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, LoraSpec
from rlhf_forge.backbone.loading import content_fingerprint, load_base
from rlhf_forge.backbone.scalar_head import HeadWeights
from rlhf_forge.data.records import assistant, user
from rlhf_forge.data.render import load_template
from rlhf_forge.toy_world.tokenizer import train_tokenizer

CONTEXT = 256
TEXTS = ["What is the capital of France?", "Paris is the capital.", "Grüße, 世界! 🦊"]


def write_base(folder: Path) -> Path:
    """A base of 2 layers, width 128, 512 tokens."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS * 20, vocab_size=512)
    config = MistralConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        sliding_window=None,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        # Wide enough that the likeliest token is not a near tie.
        initializer_range=0.2,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_weights(backbone: Backbone, *, seed: int, head: bool) -> AdapterWeights:
    """An adapter that really changes the base."""
    fresh = backbone.fresh_weights(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        name: (down, 0.1 * torch.randn(up.shape, generator=generator))
        for name, (down, up) in fresh.pairs.items()
    }
    scalar = HeadWeights(torch.randn(1, 128, generator=generator), mean=0.5, std=2.0)
    return AdapterWeights(fresh.lora, pairs, scalar if head else None)


def write_run(root: Path, *, base: Path, precision: str = "fp32") -> Path:
    """Artefacts of the stages sft, ppo and reward on ``base``; the run's folder."""
    template = load_template(str(base), "mistral")
    backbone = Backbone(
        load_base(BackboneConfig(str(base), "fp32"), torch.device("cpu")), LoraSpec(r=4, alpha=8)
    )
    golden = []
    for text in TEXTS:
        tokens, targets = template.answered(user(text), assistant(TEXTS[1]))
        golden.append(Golden(tokens, [int(t) for t in targets], 0.0))
    for seed, stage in enumerate(("sft", "ppo", "reward")):
        folder = root / stage / "artefact"
        weights = random_weights(backbone, seed=seed, head=stage == "reward")
        write_adapter(weights, folder, base=str(base))
        template.tokenizer.chat_template = template.text
        template.tokenizer.save_pretrained(folder)
        manifest = Manifest(
            stage=stage,
            base=str(base),
            base_fingerprint=content_fingerprint(base),
            precision=precision,
            device="cpu",
            tokenizer_hash=template.tokenizer_hash,
            template_hash=template.hash,
            chat_template=template.text,
            fingerprint=f"of-{stage}",
            reward_mean=0.5 if stage == "reward" else 0.0,
            reward_std=2.0 if stage == "reward" else 1.0,
            golden=golden,
            metrics={"val/loss": 1.25},
        )
        write_manifest(manifest, folder)
    return root
