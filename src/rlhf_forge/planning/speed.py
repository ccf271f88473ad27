"""How fast this machine computes one layer of a base: seconds to measure, and the rest is counted.

A base of one layer, of the real widths and random weights, is written, loaded and timed as any
other; a layer's time holds for all layers, and that of the logits grows with the vocabulary.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.generation.cache import SlotCache
from rlhf_forge.planning.setup import Setup

ROWS, WIDTH = 4, 128
DECODED = 16
# Of the model that is timed: logits take as long a word.
VOCAB = 2048
REPEATS, ENOUGH = 3, 0.5


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine.

    Attributes:
        forward: Of one layer, a token.
        both: Of one layer's forward and backward, a token.
        logit: Of one number of the logits.
        step: Of one layer, to draw one token for each row that runs.
    """

    forward: float
    both: float
    logit: float
    step: float


def measured_speed(config: BackboneConfig, folder: Path, setup: Setup) -> Speed:
    """Time one layer of the base that lies, or whose config.json lies, in ``folder``.

    Args:
        config: Of the run's backbone.
        folder: Where config.json is.
        setup: Of the run.
    """
    device = torch.device("cuda" if setup.cuda else "cpu")
    with tempfile.TemporaryDirectory() as place, torch.random.fork_rng():
        _write_one_layer(folder, Path(place), config.compute_dtype)
        backbone = Backbone(load_base(replace(config, path=place), device), config.lora)
    backbone.add_role("policy", backbone.fresh_weights(seed=0), trainable=True)
    tokens = torch.arange(ROWS * WIDTH, device=device).view(ROWS, WIDTH) % VOCAB
    wanted = torch.ones_like(tokens, dtype=torch.bool)
    targets = wanted.clone()
    targets[:, 0] = False
    count = tokens.numel()

    def states() -> Tensor:
        return backbone.states(tokens, wanted)

    with backbone.using("policy"):
        both = _seconds(lambda: states().float().sum().backward())  # type: ignore[no-untyped-call]
        with torch.no_grad():
            forward = _seconds(states)
            heads = _seconds(lambda: backbone.log_probs(tokens, targets, temperature=1.0))
            step = _seconds(_decoding(backbone, setup))
    # A gradient of log-probabilities costs about one more product with the head.
    logit = max(heads - forward, 0.0) * 2 / (count * VOCAB)
    return Speed(forward / count, both / count, logit, step)


def _write_one_layer(folder: Path, place: Path, dtype: torch.dtype) -> None:
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config.num_hidden_layers, config.vocab_size = 1, VOCAB
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, 0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    model.save_pretrained(place)


def _decoding(backbone: Backbone, setup: Setup) -> Callable[[], Tensor]:
    """One step of generation with the cache half full."""
    rows = max(setup.generated, 1)
    at = min(setup.max_length, WIDTH) + min(setup.max_new_tokens, WIDTH) // 2
    model, device = backbone.model, backbone.device
    cache = SlotCache(model.config, rows, device, model.dtype)
    cache.reserve(at + 1)
    tokens = torch.zeros(rows, 1, dtype=torch.long, device=device)
    positions = torch.full_like(tokens, at)

    def step() -> Tensor:
        return backbone.next_logits(tokens, cache.place(0, positions), positions, cache)

    return step


def _seconds(work: Callable[[], object]) -> float:
    """The least of some repeats, after one that is not counted: of short work there are more."""
    taken: list[float] = []
    while len(taken) <= REPEATS or sum(taken) < ENOUGH:
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
