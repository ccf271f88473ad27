"""How fast this machine computes a run's steps: what a step calls, timed on few layers.

A base of the real widths and vocabulary, but of few layers and random weights, is written, loaded
and timed as any other, on rows as long as the run's. A layer's time holds for all layers; what a
step takes beside its layers is in the time of a base of one.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.backbone.packing import to_the_left
from rlhf_forge.backbone.scoring import scalar_at_end
from rlhf_forge.generation.engine import Engine, Entry, Request
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.planning.demand import Demand, Item
from rlhf_forge.planning.sample import Sample
from rlhf_forge.planning.setup import Setup
from rlhf_forge.planning.shape import Shape
from rlhf_forge.rollout import score_rollout

# Layers are timed that hold about so many weights together: two of a large base.
WEIGHTS = 2**24
# Micro-batches that are timed, each of another step, unless fewer take so many seconds.
SAMPLES, ENOUGH = 4, 2.0
# Tokens that each row draws.
DRAWN = 16


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine, of all layers and what is around them.

    Attributes:
        learnt: Of a token, forward and backward under every role that trains.
        read: Of a token of a rollout, under every role; 0 outside PPO, as are those below.
        prompt: Of a token of a prompt that is to be answered.
        drawn: Of one token for each row that generates.
    """

    learnt: float
    read: float = 0.0
    prompt: float = 0.0
    drawn: float = 0.0


def measured_speed(config: BackboneConfig, folder: Path, setup: Setup, demand: Demand) -> Speed:
    """Time the calls of a step on the base that lies, or whose config.json lies, in ``folder``.

    Args:
        config: Of the run's backbone.
        folder: Where config.json is.
        setup: Of the run.
        demand: Rows of its steps.
    """
    device = torch.device("cuda" if setup.cuda else "cpu")
    depth = layers_timed(setup.shape)
    with tempfile.TemporaryDirectory() as place, torch.random.fork_rng():
        _write_base(folder, Path(place), config.compute_dtype, depth, device)
        # The same rows under both. The deeper one first: it is all of a small base, of which a CPU
        # compiles bf16 products for every new shape, and does not again for the other.
        more, one = (
            _timed(_opened(replace(config, path=place), setup, layers, device), setup, demand)
            for layers in (depth, 1)
        )
    return _at_depth(one, more, (setup.shape.layers - 1) / (depth - 1))


def layers_timed(shape: Shape) -> int:
    """Layers of the deeper of the two bases that are timed: all of a small one."""
    each = shape.linear_weights // shape.layers
    return max(2, min(shape.layers, WEIGHTS // each))


def _at_depth(one: Speed, more: Speed, far: float) -> Speed:
    """From the speed with one layer ``far`` times as deep as to that with more."""
    times = zip(astuple(one), astuple(more), strict=True)
    return Speed(*(max(few, few + far * (many - few)) for few, many in times))


def _write_base(
    folder: Path, place: Path, dtype: torch.dtype, layers: int, device: torch.device
) -> None:
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        # Of a base that names the kind of each layer there must be as many.
        config.layer_types = [*islice(cycle(config.layer_types), layers)]
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    model.save_pretrained(place)


def _opened(config: BackboneConfig, setup: Setup, layers: int, device: torch.device) -> Backbone:
    """The first layers of a base, with the roles that a step computes."""
    model = load_base(config, device)
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    backbone = Backbone(model, config.lora, gradient_checkpointing=setup.recomputes)
    start = backbone.fresh_head(backbone.fresh_weights(seed=0), seed=0)
    backbone.add_role("policy", start, trainable=True)
    if setup.stage == "ppo":
        for role in ("reference", "reward", "value")[: setup.roles.trained + 1]:
            backbone.add_role(role, start, trainable=role == "value")
    return backbone


def _timed(backbone: Backbone, setup: Setup, demand: Demand) -> Speed:
    steps = cycle(demand.steps)
    samples = [Sample.of(setup, step, backbone.device) for step in islice(steps, SAMPLES)]
    learnt = _a_token(lambda sample: _learn(backbone, setup, sample), samples)
    if setup.stage != "ppo":
        return Speed(learnt)
    read = _a_token(lambda sample: _read(backbone, sample), samples)
    return Speed(learnt, read, *_generated(backbone, setup, next(steps)))


def _learn(backbone: Backbone, setup: Setup, sample: Sample) -> None:
    """Forward and backward, as a step takes them."""
    if setup.stage == "reward":
        for _ in range(setup.roles.trained):
            scores = scalar_at_end(backbone, sample.tokens, sample.targets, role="policy")
            scores.sum().backward()  # type: ignore[no-untyped-call]
        return
    with backbone.using("policy"):
        log_probs, _ = backbone.log_probs(sample.tokens, sample.targets, temperature=1.0)
    log_probs.sum().backward()  # type: ignore[no-untyped-call]
    if "value" in backbone.roles:
        with backbone.using("value"):
            values = backbone.scalars(sample.tokens, to_the_left(sample.targets))
        values.sum().backward()  # type: ignore[no-untyped-call]


def _read(backbone: Backbone, sample: Sample) -> None:
    finished = torch.ones(len(sample.tokens), dtype=torch.bool, device=backbone.device)
    rows = [range(len(sample.tokens))]
    score_rollout(backbone, sample.tokens, sample.targets, finished, batches=rows, temperature=1.0)


def _generated(backbone: Backbone, setup: Setup, step: Sequence[Item]) -> tuple[float, float]:
    """Seconds of a prompt's token, and of a step halfway through the longest response."""
    half, drawn = setup.max_new_tokens // 2, min(DRAWN, setup.max_new_tokens)
    lengths = [row.length - setup.max_new_tokens + half for (row,) in step]
    requests = [
        Request(torch.randint(setup.shape.vocab, (length,)).tolist(), "policy", (at,))
        for at, length in enumerate(islice(cycle(lengths), setup.generated))
    ]
    sampling = Sampling(max_new_tokens=drawn)
    engine = Engine(backbone, slots=setup.generated, eos_ids=())
    entries = [Entry(at, request, sampling) for at, request in enumerate(requests)]
    read = _seconds(lambda: engine.add(entries))
    # Of the median a GPU's captures of new shapes are no part.
    each = median(_seconds(engine.step) for _ in range(drawn))
    return read / sum(len(request.prompt) for request in requests), each


def _a_token(work: Callable[[Sample], None], samples: Sequence[Sample]) -> float:
    """Seconds. The first sample warms up and does not count, unless it is enough by itself."""
    first, *others = samples
    warm_up = _seconds(partial(work, first))
    if warm_up > ENOUGH:
        return warm_up / first.computed
    seconds, tokens = 0.0, 0
    for sample in others:
        seconds += _seconds(partial(work, sample))
        tokens += sample.computed
        if seconds > ENOUGH:
            break
    return seconds / tokens


def _seconds(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - start
