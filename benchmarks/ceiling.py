"""What a stock decoder reaches at best, and what products of matrices reach, on this machine now.

    python benchmarks/ceiling.py --size 31M --precision bf16 --threads 1

The bare ceiling: Hugging Face's decoder, frozen, forward and the gradient of its input, over 16
rows of 128 tokens; no adapter, no head, no padding, no optimiser. Products: square ones, 2048 wide.
Prints one line of JSON; `against_trl.py` runs this beside what it compares.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import MistralModel
from work import SIZES, Size, config_of

ROWS, TOKENS, WIDTH = 16, 128, 2048
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Measure both, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), required=True)
    parser.add_argument("--precision", choices=list(TYPES), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each of the two, at least")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = TYPES[arguments.precision]
    model = bare(SIZES[arguments.size], dtype)
    clock, cpu = rates(training_pass(model), ROWS * TOKENS, arguments.seconds)
    square = torch.randn(WIDTH, WIDTH).to(dtype)
    products, _ = rates(lambda: square @ square, 2 * WIDTH**3, arguments.seconds / 3)
    layers = sum(weight.numel() for weight in model.layers.parameters())
    # Forward and the gradient of the input: two products a weight and token, two operations each.
    row = {
        "tokens_per_s": clock,
        "tokens_per_cpu_s": cpu,
        "gflops": 4 * layers * clock / 1e9,
        "matmul_gflops": products / 1e9,
    }
    print(json.dumps(row))


def bare(size: Size, dtype: torch.dtype) -> Any:
    """The decoder alone, with frozen random weights."""
    return MistralModel(config_of(size)).to(dtype).requires_grad_(False).train()


def training_pass(model: Any) -> Callable[[], object]:
    """Forward and the gradient of the input, over random embeddings."""
    embeddings = torch.randn(ROWS, TOKENS, model.config.hidden_size, dtype=model.dtype)

    def one() -> object:
        given = embeddings.detach().requires_grad_()
        states = model(inputs_embeds=given, use_cache=False).last_hidden_state
        return torch.autograd.grad(states.sum(), given)

    return one


def rates(work: Callable[[], object], amount: int, seconds: float) -> tuple[float, float]:
    """Of ``amount`` a call: per second by the clock, and per second of the processor."""
    for _ in range(2):
        work()
    calls, clock, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - clock < seconds:
        work()
        calls += 1
    taken, used = time.perf_counter() - clock, time.process_time() - cpu
    return amount * calls / taken, amount * calls / used


if __name__ == "__main__":
    main()
