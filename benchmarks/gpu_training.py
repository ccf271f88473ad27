"""The package's modules in a Lightning Trainer on a base without a checkpoint, for gpu_rows.py."""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from gpu_base import Memory, peaks, wait
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override
from work import write_tokenizer

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.data.format import Kind
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.data.records import assistant, user
from rlhf_forge.data.render import load_template
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.reward import RewardModule
from rlhf_forge.modules.settings import OptimizerSettings, RolloutSettings, UpdateSettings
from rlhf_forge.modules.sft import SFTModule

# Of the tokenizer: as many words are one token each as texts need.
VOCABULARY = 4096
ROWS = 160
NOWHERE = BackboneConfig("random", precision="nf4")
STEADY = OptimizerSettings(learning_rate=1e-5, schedule="constant")


class Steps(Callback):
    """Seconds of each step, and the peak memory of all.

    Args:
        device: That computes.
        then: Called behind the last step with the module, while its training state is held.
    """

    def __init__(
        self, device: torch.device, then: Callable[[Any], object] = lambda module: None
    ) -> None:
        self.device, self.then = device, then
        self.told: Callable[[], object] = lambda: None
        self.seconds: list[float] = []
        self.peaks = Memory(None, None)
        self._started = 0.0

    @override
    def on_train_batch_start(self, *args: Any) -> None:
        wait(self.device)
        self._started = time.perf_counter()

    @override
    def on_train_batch_end(self, *args: Any) -> None:
        wait(self.device)
        self.seconds.append(time.perf_counter() - self._started)
        self.peaks = peaks(self.device)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.told()
        self.then(pl_module)


def sft_module(backbone: Backbone, *, micro: int) -> SFTModule:
    """SFT of the role policy."""
    return _with(SFTModule(NOWHERE, 100, STEADY, micro), backbone)


def reward_module(backbone: Backbone, *, micro: int) -> RewardModule:
    """A reward model, without the scale that its artefact would get."""
    module = RewardModule(
        NOWHERE,
        "random",
        100,
        STEADY,
        micro_batch_tokens=micro,
        calibration_samples=16,
        sampling=Sampling(max_new_tokens=16),
    )
    return _with(module, backbone)


def ppo_module(sizes: Any, backbone: Backbone, micro: int) -> PPOModule:
    """PPO of two epochs with four minibatches each; no update is left out."""
    module = PPOModule(
        NOWHERE,
        "random",
        "random",
        total_iterations=100,
        rollout=RolloutSettings(max_new_tokens=sizes.response, max_rows=sizes.ppo_rows),
        updates=UpdateSettings(
            ppo_epochs=2,
            minibatch_size=sizes.ppo_rows // 4,
            micro_batch_tokens=micro,
            target_kl=None,
        ),
    )
    return _with(module, backbone)


def _with(module: Any, backbone: Backbone) -> Any:
    """The module with a backbone that is there: none is loaded then."""
    module.backbone = backbone
    return module


def fit(module: Any, folder: Path, clock: Steps, sizes: Any, *, length: int, batch: int) -> None:
    """Train as the command line would, but for bar, logger and checkpoints.

    Args:
        module: With its backbone.
        folder: For tokenizer, data and what the Trainer leaves.
        clock: Counts.
        sizes: Of the work.
        length: Steps.
        batch: Rows of one.
    """
    path = write_data(folder, module.data_kind, sizes)
    module.template = load_template(str(folder), "mistral")
    data = PreferenceDataModule(
        str(path),
        batch_size=batch,
        max_length=10**6,
        tokenizer=str(folder),
        kind=cast(Kind, module.data_kind),
    )
    trainer = Trainer(
        accelerator=clock.device.type if clock.device.type == "cpu" else "gpu",
        devices=1,
        max_epochs=1,
        limit_train_batches=length,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(folder),
        callbacks=[clock],
    )
    trainer.fit(module, datamodule=data)


def write_data(folder: Path, kind: str, sizes: Any) -> Path:
    """A file of records that are exactly as long as ``sizes`` says, in words of one token."""
    path = folder / f"{kind}.jsonl"
    if path.is_file():
        return path
    rng = random.Random(0)
    words = write_tokenizer(folder, vocab=VOCABULARY, rng=rng)
    template = load_template(str(folder), "mistral")
    some = 8
    prompt = user(" ".join(rng.choices(words, k=some)))
    around = len(template.prompt(prompt)) - some
    whole, _ = template.answered(prompt, assistant(" ".join(words[:some])))
    behind = len(whole) - around - 2 * some

    def text(tokens: int) -> str:
        return " ".join(rng.choices(words, k=tokens))

    def record() -> dict[str, str]:
        if kind == "prompts":
            return {"prompt": text(sizes.prompt - around)}
        width = sizes.sft_width if kind == "demonstrations" else sizes.pair_width
        half = width // 2
        answers = ("completion",) if kind == "demonstrations" else ("chosen", "rejected")
        return {"prompt": text(half - around)} | {
            name: text(width - half - behind) for name in answers
        }

    path.write_text("".join(json.dumps(record()) + "\n" for _ in range(ROWS)), encoding="utf-8")
    return path
