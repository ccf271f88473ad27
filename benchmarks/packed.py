"""The packed forward and backward against the stock decoder, and with prefixes shared and not.

    python benchmarks/packed.py --sizes 5M 31M --precision fp32 bf16 --seconds 40

One step's rows of work.py at one thread: stock in the micro-batches that save padding, packed in
one. Prints Markdown tables of the least CPU milliseconds (user and system) that each took, in turn
on the same rows, which holds on a busy machine; and how far the gradients are apart. In the second
table both sides are packed: rows of pairs, or of several responses to a prompt, each by itself, and
with what they begin with computed once.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from work import PROMPT, RESPONSE, SIZES, Size, write_work

from rlhf_forge.backbone import prefixes
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, Precision
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.backbone.packing import pack
from rlhf_forge.backbone.scoring import row_ends, scalar_at_end
from rlhf_forge.data.collate import micro_batches

HEADS = {
    "stock": "| size | precision | step | stock ms | packed ms | ratio | gradients apart |\n"
    + "|---" * 7
    + "|",
    "shared": "| size | precision | step | tokens saved | apart ms | shared ms | ratio | /CPU s |"
    " gradients apart |\n" + "|---" * 9 + "|",
}
# Takes a backbone, tokens and the mask of their responses; gives a loss.
Loss = Callable[[Backbone, Tensor, Tensor], Tensor]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    known = get_args(Precision)
    parser.add_argument("--precision", nargs="+", choices=known, default=["fp32", "bf16"])
    tables = {"stock": against_stock, "shared": shared}
    parser.add_argument("--tables", nargs="+", choices=tables, default=list(tables))
    parser.add_argument("--seconds", type=float, default=40, help="for each size and precision")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for table in arguments.tables:
        print(HEADS[table], flush=True)
        for name in arguments.sizes:
            with tempfile.TemporaryDirectory() as folder:
                write_work(SIZES[name], Path(folder))
                for precision in arguments.precision:
                    backbone = opened(folder, precision)
                    for line in tables[table](backbone, SIZES[name], arguments.seconds):
                        print(f"| {name} | {precision} | {line} |", flush=True)


def opened(folder: str, precision: Precision) -> Backbone:
    """The base with a policy and a reward model whose adapters are not zero."""
    base = load_base(BackboneConfig(f"{folder}/base", precision), torch.device("cpu"))
    backbone = Backbone(base, None)
    weights = backbone.fresh_weights(seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, (down, up) in weights.pairs.items():
        weights.pairs[name] = (down, 0.01 * torch.randn(up.shape, generator=generator))
    backbone.add_role("policy", weights, trainable=True)
    backbone.add_role("reward", backbone.fresh_head(weights, seed=0), trainable=True)
    return backbone


def rows_of(size: Size) -> tuple[Tensor, Tensor, list[int]]:
    """Tokens of a step of SFT, the mask of their responses, and lengths."""
    rng = random.Random(0)
    rows = [(PROMPT.draw(rng), RESPONSE.draw(rng)) for _ in range(size.sft_batch)]
    starts, ends = (torch.tensor(x) for x in zip(*((p, p + r) for p, r in rows), strict=True))
    index = torch.arange(int(ends.max()))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, size.vocab, (len(rows), len(index)), generator=generator)
    return tokens, (index >= starts[:, None]) & (index < ends[:, None]), ends.tolist()


def sft(backbone: Backbone, tokens: Tensor, mask: Tensor) -> Tensor:
    """As the SFT stage and, but for the clipping, PPO's policy."""
    with backbone.using("policy"):
        log_probs, _ = backbone.log_probs(tokens, mask, temperature=1.0)
    return -log_probs.sum() / 1000


def score(backbone: Backbone, tokens: Tensor, mask: Tensor) -> Tensor:
    """As the reward stage: a number a row."""
    return scalar_at_end(backbone, tokens, mask, role="reward").square().sum()


def against_stock(backbone: Backbone, size: Size, seconds: float) -> list[str]:
    """A line for each kind of step."""
    tokens, mask, lengths = rows_of(size)
    packed = backbone.packed
    saving = micro_batches(lengths, max_tokens=8192)
    whole = micro_batches(lengths, max_tokens=8192, pads=False)

    def step(loss: Loss, *, stock: bool, backward: bool) -> None:
        backbone.packed = None if stock else packed
        backbone.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(backward):
            for rows in saving if stock else whole:
                width = max(lengths[row] for row in rows)
                part = loss(backbone, tokens[rows, :width], mask[rows, :width])
                if backward:
                    part.backward()  # type: ignore[no-untyped-call]

    lines = []
    for name, loss, backward in (
        ("SFT", sft, True),
        ("reward", score, True),
        ("log-probs", sft, False),
    ):
        ways = [
            lambda stock=stock, loss=loss, backward=backward: step(
                loss, stock=stock, backward=backward
            )
            for stock in (True, False)
        ]
        stock, ours = least(ways, seconds / 3)
        apart = distance(backbone, ways) if backward else None
        error = "" if apart is None else f"{apart:.0e}"
        lines.append(f"{name} | {stock:.0f} | {ours:.0f} | {stock / ours:.2f}x | {error}")
    return lines


def pairs_of(size: Size) -> tuple[Tensor, Tensor]:
    """Tokens of a step of the reward stage, both sides of each pair, and their responses."""
    rng = random.Random(0)
    prompts = [PROMPT.draw(rng) for _ in range(size.reward_batch)]
    return alike([(prompt, RESPONSE.draw(rng)) for prompt in prompts for _ in range(2)], 2, size)


def samples_of(size: Size) -> tuple[Tensor, Tensor]:
    """Tokens of a step of GRPO, eight responses to a prompt, and their mask."""
    rng = random.Random(0)
    prompts = [PROMPT.draw(rng) for _ in range(size.ppo_batch // 8)]
    return alike([(prompt, 64) for prompt in prompts for _ in range(8)], 8, size)


def alike(rows: Sequence[tuple[int, int]], each: int, size: Size) -> tuple[Tensor, Tensor]:
    """Random rows of these prompts and responses, of which ``each`` in turn have one prompt."""
    prompts, ends = (torch.tensor(x) for x in zip(*((p, p + r) for p, r in rows), strict=True))
    index = torch.arange(int(ends.max()))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, size.vocab, (len(rows), len(index)), generator=generator)
    first = torch.arange(len(rows)) // each * each
    tokens = torch.where(index < prompts[:, None], tokens[first], tokens)
    return tokens, (index >= prompts[:, None]) & (index < ends[:, None])


def shared(backbone: Backbone, size: Size, seconds: float) -> list[str]:
    """A line for each kind of step whose rows begin alike."""
    cost, lines = prefixes.PREFIX_COST, []

    def step(loss: Loss, rows: tuple[Tensor, Tensor], *, at: int) -> None:
        prefixes.PREFIX_COST = at
        backbone.zero_grad(set_to_none=True)
        loss(backbone, *rows).backward()  # type: ignore[no-untyped-call]

    for name, loss, rows, count in (
        ("reward, pairs", score, pairs_of(size), size.reward_batch),
        ("GRPO, samples", sft, samples_of(size), size.ppo_batch),
    ):
        ways = [partial(step, loss, rows, at=at) for at in (sys.maxsize, cost)]
        apart, ours = least(ways, seconds / 2)
        saved = pack(*rows).shared / sum(row_ends(rows[1]))
        error = distance(backbone, ways)
        lines.append(
            f"{name} | {saved:.0%} | {apart:.0f} | {ours:.0f} | {apart / ours:.2f}x "
            f"| {1000 * count / ours:.1f} | {error:.0e}"
        )
    return lines


def least(ways: Sequence[Callable[[], None]], seconds: float) -> list[float]:
    """The least CPU milliseconds of each, run in turn."""
    found = [float("inf")] * len(ways)
    end = time.monotonic() + seconds
    while time.monotonic() < end or found[-1] == float("inf"):
        for place, way in enumerate(ways):
            before = resource.getrusage(resource.RUSAGE_SELF)
            way()
            after = resource.getrusage(resource.RUSAGE_SELF)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            found[place] = min(found[place], 1000 * spent)
    return found


def distance(backbone: Backbone, ways: Sequence[Callable[[], None]]) -> float:
    """Norm of the difference of two ways' gradients over that of the first."""
    grads = []
    for way in ways:
        way()
        grads.append(
            torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])
        )
    return ((grads[0] - grads[1]).norm() / grads[0].norm()).item()


if __name__ == "__main__":
    main()
