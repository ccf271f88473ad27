"""float32 products on a CPU: torch's own against oneDNN's, which `functional/products.py` calls.

    python benchmarks/products.py
    python benchmarks/products.py --threads 2

The wide products of a training step at the shapes of the small bases, forward and to the input's
gradient: GFLOP/s, the fastest of several calls in turn. Prints a Markdown table.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_forge.functional.products import wide_product

SHAPES = (  # tokens, inner, outer
    (2195, 256, 512),
    (2195, 256, 1408),
    (2195, 704, 256),
    (512, 256, 4096),
    (2030, 512, 1024),
    (2030, 512, 2816),
    (2030, 1408, 512),
    (256, 512, 8192),
)


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| tokens, inner, outer | forward: torch | here | input's gradient: torch | here |")
    print("|---|---|---|---|---|")
    for tokens, inner, outer in SHAPES:
        x, grad = torch.randn(tokens, inner), torch.randn(tokens, outer)
        weight = torch.randn(outer, inner)
        rates = [
            tokens * inner * outer * 2e-9 / seconds
            for a, b in ((x, weight), (grad, weight.T))
            for seconds in fastest(a, b, arguments.rounds)
        ]
        print(f"| {tokens}, {inner}, {outer} | " + " | ".join(f"{r:.0f}" for r in rates) + " |")


def fastest(x: Tensor, weight: Tensor, rounds: int) -> list[float]:
    """Least seconds of torch's product and of ours, in turn."""
    sides: list[Callable[[], Tensor]] = [
        partial(product, x, weight) for product in (F.linear, wide_product)
    ]
    spent: list[list[float]] = [[], []]
    for _ in range(rounds):
        for side, seconds in zip(sides, spent, strict=True):
            side()
            started = time.perf_counter()
            side()
            seconds.append(time.perf_counter() - started)
    return [min(seconds) for seconds in spent]


if __name__ == "__main__":
    main()
