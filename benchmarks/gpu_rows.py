"""The questions of gpu.py, G0 to G7: each a function that tells its rows as it has them."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import Any

import torch
from gpu_base import (
    MISTRAL_7B,
    TOY,
    Shape,
    backbone_on,
    cap,
    copy_bandwidth,
    gemm_rate,
    held_bytes,
    start_counting,
    wait,
)
from gpu_training import Steps, fit, ppo_module, reward_module, sft_module
from work import PROMPT

from rlhf_forge.backbone import backbone as backbone_module
from rlhf_forge.backbone import prefixes
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.packing import Packed
from rlhf_forge.generation.decode import generate
from rlhf_forge.generation.engine import Engine, Entry, Request
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.generation.scheduler import Scheduler
from rlhf_forge.modules import ppo

RANK = 16
GOAL_MFU, GOAL_RATIO, GOAL_SHARED = 0.4, 1e-3, 1.3


@dataclass(frozen=True)
class Sizes:
    """How large the work of each row is."""

    shape: Shape = MISTRAL_7B
    prompt: int = 256
    response: int = 256
    ppo_rows: int = 16
    ppo_micro: int = 1024
    wide_micro: int = 8192
    sft_width: int = 2048
    pair_width: int = 512
    pairs: int = 8
    batches: tuple[int, ...] = (1, 16, 64, 256)
    against: int = 64
    streams: tuple[int, ...] = (1, 8, 32)
    answer: int = 128
    copy_mib: int = 1024
    gemm_side: int = 8192
    most_rows: int = 1024


SIZES = {
    "full": Sizes(),
    "toy": Sizes(
        shape=TOY,
        prompt=16,
        response=8,
        ppo_rows=4,
        ppo_micro=48,
        wide_micro=96,
        sft_width=48,
        pair_width=24,
        pairs=2,
        batches=(1, 4),
        against=4,
        streams=(1, 3),
        answer=6,
        copy_mib=8,
        gemm_side=128,
        most_rows=8,
    ),
}


@dataclass
class Run:
    """Where a row is measured, and by what floors.

    Attributes:
        sizes: Of the work.
        device: That is measured.
        folder: For files.
        left: Seconds that the row still has.
        tell: Takes a finished row.
        floors: Bytes and FLOPs a second, as row G0 found them; empty if it did not.
    """

    sizes: Sizes
    device: torch.device
    folder: Path
    left: Callable[[], float]
    tell: Callable[[dict[str, Any]], None]
    floors: dict[str, float] = field(default_factory=dict)

    def row(self, what: str, value: float | None, unit: str, **more: Any) -> None:
        """Tell a row: ``goal`` in words, whether it is ``met``, and the ``floor`` in its unit."""
        floor = more.get("floor")
        gap = None if not floor or not value else max(value / floor, floor / value)
        self.tell({"what": what, "value": value, "unit": unit, "gap": gap, **more})

    def compute_seconds(self, flops: float) -> float | None:
        """Least seconds for so many FLOPs."""
        return flops / self.floors["gemm"] if "gemm" in self.floors else None

    def reading_seconds(self, size: float) -> float | None:
        """Least seconds to read so many bytes."""
        return size / self.floors["copy"] if "copy" in self.floors else None


def g0(run: Run) -> None:
    """What the machine can do: everything else is held against it."""
    copied = copy_bandwidth(run.device, mib=run.sizes.copy_mib)
    run.row("copy bandwidth, read and written", copied / 1e9, "GB/s", key="copy", raw=copied)
    rate = gemm_rate(run.device, side=run.sizes.gemm_side)
    run.row("bf16 GEMM", rate / 1e12, "TFLOP/s", key="gemm", raw=rate)


def g1(run: Run) -> None:
    """PPO in 12 GiB, and the largest rollout in 16 and 24."""
    if not cap(run.device, 12):
        raise RuntimeError("the card has less than 12 GiB")
    steps = Steps(run.device, lambda module: largest_rollouts(run, module.backbone))
    module = ppo_module(run.sizes, _four_roles(run, checkpointing=True), run.sizes.ppo_micro)
    start_counting(run.device)
    with recorded({}):
        steps.told = lambda: run.row(
            "PPO capped at 12 GiB: peak allocated",
            steps.peaks.allocated,
            "GiB",
            goal="<= 10",
            met=None if steps.peaks.allocated is None else steps.peaks.allocated <= 10,
            reserved_gib=steps.peaks.reserved,
            micro_batch_tokens=module.micro_batch_tokens,
            seconds=steps.seconds,
            phases=dict(module.seconds),
        )
        fit(module, run.folder, steps, run.sizes, length=2, batch=run.sizes.ppo_rows)


def largest_rollouts(run: Run, backbone: Backbone) -> None:
    """The most rows whose prompts are read and whose last tokens are drawn, training state held."""
    for gib in (16, 24):
        if not cap(run.device, gib):
            run.row(f"largest rollout in {gib} GiB", None, "rows", error="the card has less")
            continue
        rows, found = run.sizes.ppo_rows, 0
        while rows <= run.sizes.most_rows and run.left() > 5 and _fits(run, backbone, rows):
            found, rows = rows, 2 * rows
        low, high = found, min(rows, run.sizes.most_rows)
        while high - low > max(8, low // 8) and run.left() > 5:
            middle = (low + high) // 2
            low, high = (middle, high) if _fits(run, backbone, middle) else (low, middle)
        run.row(f"largest rollout in {gib} GiB", low, "rows", stopped_by_time=run.left() <= 5)
    cap(run.device, None)


def _fits(run: Run, backbone: Backbone, rows: int) -> bool:
    start_counting(run.device)
    sizes = run.sizes
    try:
        engine = Engine(backbone, slots=rows, eos_ids=())
        sampling = Sampling(max_new_tokens=sizes.response)
        requests = requests_of(sizes, rows)
        engine.add([Entry(at, request, sampling) for at, request in enumerate(requests)])
        # As the last step will need it, without the steps until then.
        engine._cache.reserve(sizes.prompt + sizes.response)
        engine.step()
        engine.step()
    except torch.OutOfMemoryError:
        return False
    return True


def g2(run: Run) -> None:
    """QLoRA SFT on two rows of 2048."""
    sizes = run.sizes
    tokens = 2 * sizes.sft_width
    for checkpointing in (True, False):
        backbone = backbone_on(
            sizes.shape, run.device, checkpointing=checkpointing, trained=["policy"], frozen=[]
        )
        module, steps = sft_module(backbone, micro=tokens), Steps(run.device)
        start_counting(run.device)
        fit(module, run.folder, steps, sizes, length=4, batch=2)
        least = run.compute_seconds(training_flops(sizes.shape, tokens, targets=tokens // 2))
        run.row(
            f"SFT 2 x {sizes.sft_width}, {'' if checkpointing else 'no '}checkpointing",
            tokens / steps.seconds[-1],
            "tokens/s",
            floor=tokens / least if least else None,
            goal="<= 7 GiB" if checkpointing else "",
            met=_at_most(steps.peaks.allocated, 7.0) if checkpointing else None,
            peak_gib=steps.peaks.allocated,
            reserved_gib=steps.peaks.reserved,
            micro_batch_tokens=module.micro_batch_tokens,
        )
        del module, backbone


def g3(run: Run) -> None:
    """Rollouts of several sizes, and the same by transformers."""
    sizes = run.sizes
    backbone = backbone_on(
        sizes.shape, run.device, checkpointing=False, trained=[], frozen=["policy"]
    )
    rates: dict[int, float] = {}
    for rows in (sizes.against, *(n for n in sizes.batches if n != sizes.against)):
        ours(run, backbone, rows, 3)  # kernels are built and loaded, the allocator is warm
        seconds = ours(run, backbone, rows, sizes.response)
        rates[rows] = rows * sizes.response / seconds
        least = run.reading_seconds(step_bytes(sizes, backbone, rows))
        floor = rows / least if least else None
        run.row(
            f"rollout, {rows} rows",
            rates[rows],
            "tokens/s",
            floor=floor,
            goal=">= 50 % of the floor" if rows == 16 else "",
            met=rates[rows] >= floor / 2 if floor and rows == 16 else None,
        )
        if rows == sizes.against:
            theirs = rows * sizes.response / hugging_face(run, backbone, rows)
            run.row(
                f"transformers generate, {rows} rows",
                theirs,
                "tokens/s",
                floor=floor,
                goal="ours >= 5 x this",
                met=rates[rows] >= 5 * theirs,
                ours_over_theirs=rates[rows] / theirs,
            )


def ours(run: Run, backbone: Backbone, rows: int, length: int) -> float:
    """Seconds of a rollout, prompts read included."""
    requests, sampling = requests_of(run.sizes, rows), Sampling(max_new_tokens=length)
    wait(run.device)
    return _once(run, lambda: generate(backbone, requests, sampling, (), max_rows=rows))


@torch.no_grad()
def hugging_face(run: Run, backbone: Backbone, rows: int) -> float:
    """Seconds of the same rollout by `generate` on the same model under the same adapter."""
    tokens = torch.tensor([list(r.prompt) for r in requests_of(run.sizes, rows)])
    tokens = tokens.to(run.device)

    def call(length: int) -> None:
        backbone.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=True,
            top_k=0,
            min_new_tokens=length,
            max_new_tokens=length,
            pad_token_id=0,
        )

    with backbone.using("policy"):
        call(2)
        return _once(run, lambda: call(run.sizes.response))


def g4(run: Run) -> None:
    """One iteration of PPO by phase, and whether its numbers agree with each other."""
    sizes, found = run.sizes, {}
    backbone = _four_roles(run, checkpointing=False)
    steps = Steps(run.device)
    module = ppo_module(sizes, backbone, sizes.wide_micro)
    steps.then = lambda _: g6(run, backbone, found)
    with recorded(found):
        steps.told = lambda: phases(run, module)
        fit(module, run.folder, steps, sizes, length=2, batch=sizes.ppo_rows)


def phases(run: Run, module: Any) -> None:
    """Of an iteration: its three phases against what the machine could do."""
    sizes, seconds, parts = run.sizes, module.seconds, ("generate", "score", "update")
    total = sum(seconds[part] for part in parts)
    tokens = sizes.ppo_rows * (sizes.prompt + sizes.response)
    targets = sizes.ppo_rows * sizes.response
    epochs = 2
    forwards = 4 * tokens * 2 * sizes.shape.linear_weights
    update = epochs * (
        training_flops(sizes.shape, tokens, targets=targets)
        + training_flops(sizes.shape, tokens, targets=0)
    )
    step = run.reading_seconds(step_bytes(sizes, module.backbone, sizes.ppo_rows))
    floors = {
        "generate": step and sizes.response * step,
        "score": run.compute_seconds(forwards),
        "update": run.compute_seconds(update),
    }
    for part in parts:
        floor = floors.get(part)
        share = floor / seconds[part] if floor else None
        is_update = part == "update"
        run.row(
            f"PPO iteration: {part}",
            seconds[part],
            "s",
            floor=floor,
            share_of_iteration=seconds[part] / total,
            goal=">= 40 % MFU" if is_update else "",
            met=share >= GOAL_MFU if is_update and share is not None else None,
            mfu=share if is_update else None,
            micro_batch_tokens=module.micro_batch_tokens,
        )


def g6(run: Run, backbone: Backbone, found: dict[str, float]) -> None:
    """How far what must be equal is apart."""
    ratio = found.get("ratio")
    run.row(
        "first minibatch: largest |ratio - 1|",
        ratio,
        "",
        goal=f"< {GOAL_RATIO:g}",
        met=None if ratio is None else ratio < GOAL_RATIO,
        approx_kl=found.get("approx_kl"),
        question="G6",
    )
    run.row(
        "step 0: largest |log policy - log reference|",
        found.get("gap"),
        "nats",
        goal="0",
        met=found.get("gap") == 0.0,
        question="G6",
    )
    run.row(
        "decode step against training forward", decode_gap(run, backbone), "nats", question="G6"
    )


@torch.no_grad()
def decode_gap(run: Run, backbone: Backbone) -> float:
    """Largest difference of a drawn token's log-probability, as sampled and by the training path.

    PPO does not use the first of these: it is what the fused 4-bit product and the cache cost.
    """
    request = requests_of(run.sizes, 1)[0]
    engine = Engine(backbone, slots=1, eos_ids=())
    engine.add([Entry(0, request, Sampling(max_new_tokens=run.sizes.response), top=1)])
    drawn = [one for _ in range(run.sizes.response) for one in engine.step()]
    sampled = [one.likelihood.drawn for one in drawn if one.likelihood is not None]
    tokens = torch.tensor([[*request.prompt, *(one.token for one in drawn)]], device=run.device)
    mask = torch.arange(tokens.shape[1], device=run.device)[None] >= len(request.prompt)
    with backbone.using("policy"):
        log_probs, _ = backbone.log_probs(tokens, mask, temperature=1.0)
    read = log_probs[mask].cpu()
    return (read - torch.tensor(sampled)).abs().max().item()


def g5(run: Run) -> None:
    """The reward model on pairs: by the stock decoder, packed, and packed with prompts shared."""
    sizes = run.sizes
    backbone = backbone_on(
        sizes.shape, run.device, checkpointing=True, trained=["reward"], frozen=["reference"]
    )
    ways = {"stock decoder": {"packs": False}, "packed, prompts read twice": {"shares": False}}
    alone = [pairs_a_second(run, backbone, name, **how) for name, how in ways.items()]
    pairs_a_second(run, backbone, "packed, prompts shared", than=max(alone))


def pairs_a_second(
    run: Run,
    backbone: Backbone,
    name: str,
    *,
    packs: bool = True,
    shares: bool = True,
    than: float | None = None,
) -> float:
    """Train a few steps on pairs.

    Args:
        run: Where.
        backbone: With the role reward.
        name: Of the way.
        packs: Whether rows are packed.
        shares: Whether what both sides begin with is read once.
        than: Pairs a second without that.
    """
    sizes, packed, cost = run.sizes, backbone.packed, prefixes.PREFIX_COST
    tokens = 2 * sizes.pairs * sizes.pair_width
    module, steps = reward_module(backbone, micro=tokens), Steps(run.device)
    start_counting(run.device)
    if not packs:
        backbone.packed = None
    if not shares:
        prefixes.PREFIX_COST = tokens
    try:
        with counted_sharing() as shared:
            fit(module, run.folder, steps, sizes, length=4, batch=sizes.pairs)
    finally:
        backbone.packed, prefixes.PREFIX_COST = packed, cost
    least = run.compute_seconds(training_flops(sizes.shape, tokens, targets=0))
    speed = sizes.pairs / steps.seconds[-1]
    run.row(
        f"reward model, pairs of {sizes.pair_width} tokens, {name}",
        speed,
        "pairs/s",
        floor=sizes.pairs / least if least else None,
        goal=f">= {GOAL_SHARED} x without" if than else "",
        met=speed >= GOAL_SHARED * than if than else None,
        tokens_shared=shared[-1] if shared else 0,
        peak_gib=steps.peaks.allocated,
        micro_batch_tokens=module.micro_batch_tokens,
    )
    return speed


def g7(run: Run) -> None:
    """The server's loop without HTTP: streams over three adapters in one batch."""
    sizes, roles = run.sizes, ["sft", "dpo", "ppo"]
    backbone = backbone_on(sizes.shape, run.device, checkpointing=False, trained=[], frozen=roles)
    alone = None
    for streams in sizes.streams:
        streamed(run, backbone, roles, streams)  # kernels are built and loaded
        rate, firsts = streamed(run, backbone, roles, streams)
        alone = alone or rate
        middle, late = _halfway_and_late(firsts)
        last = streams == 32
        run.row(
            f"server loop, {streams} streams over {len(roles)} adapters",
            rate,
            "tokens/s",
            goal=">= 8 x one stream" if last else "",
            met=rate >= 8 * alone if last else None,
            over_one=rate / alone,
            first_token_p50=middle,
            first_token_p95=late,
        )


def streamed(
    run: Run, backbone: Backbone, roles: list[str], streams: int
) -> tuple[float, list[float]]:
    """Tokens a second, and seconds to each answer's first token; each stream asks twice."""
    rng, answer = random.Random(0), run.sizes.answer
    scheduler = Scheduler(Engine(backbone, slots=streams, eos_ids=()), prefill_tokens=2048)
    asked: dict[int, float] = {}
    firsts: list[float] = []

    def ask(number: int) -> None:
        length = PROMPT.draw(rng)
        prompt = [rng.randrange(8, run.sizes.shape.vocab) for _ in range(length)]
        request = Request(prompt, roles[number % len(roles)], (0, 0, number))
        asked[number] = perf_counter()
        scheduler.submit([Entry(number, request, Sampling(max_new_tokens=answer))])

    for number in range(streams):
        ask(number)
    started, tokens, last = perf_counter(), 0, streams
    while scheduler.busy:
        for one in scheduler.turn().drawn:
            tokens += 1
            if one.name in asked:
                firsts.append(perf_counter() - asked.pop(one.name))
            if one.ended and last < 2 * streams:
                ask(last)
                last += 1
    return tokens / (perf_counter() - started), firsts


@contextmanager
def recorded(found: dict[str, float]) -> Iterator[None]:
    """Note what PPO checks of its first iteration, and go on where it would end the run."""
    kept = ppo.require_sound_start, ppo.require_unit_ratio

    def start(backbone: Backbone, rollout: Any, prompt: Any) -> None:
        found["gap"] = (rollout.log_probs - rollout.ref_log_probs).abs().max().item()

    def ratio(ratio_max: float, approx_kl: float, **_: Any) -> None:
        if "ratio" not in found:
            found["ratio"], found["approx_kl"] = abs(ratio_max - 1), approx_kl

    ppo.require_sound_start, ppo.require_unit_ratio = start, ratio
    try:
        yield
    finally:
        ppo.require_sound_start, ppo.require_unit_ratio = kept


@contextmanager
def counted_sharing() -> Iterator[list[int]]:
    """Of each packed batch the tokens that rows have in another row."""
    shared, kept = list[int](), backbone_module.pack

    def pack(*arguments: Any) -> Packed:
        packed = kept(*arguments)
        shared.append(packed.shared)
        return packed

    backbone_module.pack = pack
    try:
        yield shared
    finally:
        backbone_module.pack = kept


def training_flops(shape: Shape, tokens: int, *, targets: int) -> float:
    """Useful FLOPs of a forward and a backward to the adapters, attention's products left out.

    A frozen weight is multiplied with twice, an adapter's three times; of the output embedding only
    the tokens that are scored count. What is dequantised or computed again counts for nothing.
    """
    narrow = (
        RANK
        * shape.layers
        * (9 * shape.width + 2 * shape.kv_heads * (shape.width // shape.heads) + 3 * shape.ffn)
    )
    return (
        tokens * (4 * shape.linear_weights + 6 * narrow) + targets * 4 * shape.width * shape.vocab
    )


def step_bytes(sizes: Sizes, backbone: Backbone, rows: int) -> float:
    """What one decode step must read, halfway through the responses."""
    seen = sizes.prompt + sizes.response / 2
    return held_bytes(backbone, "policy") + rows * seen * sizes.shape.kv_bytes


def requests_of(sizes: Sizes, rows: int) -> list[Request]:
    """Prompts of random tokens, no two alike."""
    rng = random.Random(rows)
    return [
        Request(
            [rng.randrange(8, sizes.shape.vocab) for _ in range(sizes.prompt)],
            "policy",
            (0, 0, row),
        )
        for row in range(rows)
    ]


def _four_roles(run: Run, *, checkpointing: bool) -> Backbone:
    return backbone_on(
        run.sizes.shape,
        run.device,
        checkpointing=checkpointing,
        trained=["policy", "value"],
        frozen=["reference", "reward"],
    )


def _once(run: Run, work: Callable[[], object]) -> float:
    """Seconds of one call that is already warm."""
    wait(run.device)
    started = perf_counter()
    work()
    wait(run.device)
    return perf_counter() - started


def _at_most(value: float | None, bound: float) -> bool | None:
    return None if value is None else value <= bound


def _halfway_and_late(seconds: list[float]) -> tuple[float, float]:
    if len(seconds) < 2:
        return seconds[0], seconds[0]
    marks = quantiles(seconds, n=20, method="inclusive")
    return marks[9], marks[18]


QUESTIONS: dict[str, Callable[[Run], None]] = {
    "G0": g0,
    "G1": g1,
    "G2": g2,
    "G3": g3,
    "G4": g4,
    "G5": g5,
    "G7": g7,
}
