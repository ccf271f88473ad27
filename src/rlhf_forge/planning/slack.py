"""What arithmetic does not know: memory in pieces, and what libraries hold for themselves.

The CPU's numbers are fitted by hand to runs of `benchmarks/plan.py`. On a GPU what torch says was
allocated is the tensors and nothing else; how much more it holds is from one run of PPO on an H100
(8 %), and the context is a guess.
"""

from typing import NamedTuple

import torch

from rlhf_forge.backbone.kernel_caches import KERNELS_KEPT
from rlhf_forge.planning.setup import Setup

MIB = 2**20


class Factors(NamedTuple):
    """By what a part is more than its tensors."""

    expected: float
    high: float


class Slack(NamedTuple):
    """Of a device.

    Attributes:
        whole: Of what is allocated once.
        pieces: Of what comes and goes with every step: freed memory does not always fit again.
        name: Of what libraries hold.
        fixed: How much that is: low, expected, high.
    """

    whole: Factors
    pieces: Factors
    name: str
    fixed: tuple[int, int, int]


# Of the activations on a CPU. Pairs have blocks of whole rows and of rows that go on from them, so
# sizes differ more from step to step; compiled kernels lie between them, in bf16 more.
CPU_PIECES = {"sft": 1.15, "reward": 1.25, "dpo": 1.25, "ppo": 1.25}
HIGHEST = 1.25
MORE_PIECES = {"fp32": 0.0, "bf16": 0.1, "nf4": 0.1}
WHOLE = Factors(1.0, 1.02)
LIBRARIES = (10 * MIB, 40 * MIB, 200 * MIB)
# Of bf16 products on a CPU, half a MiB each; a run with few shapes compiles less.
KERNELS = (0, *[KERNELS_KEPT[torch.bfloat16] * MIB // 2] * 2)
CUDA = Slack(WHOLE, Factors(1.0, 1.2), "CUDA context", (350 * MIB, 500 * MIB, 900 * MIB))


def slack_of(setup: Setup) -> Slack:
    """Of the device that a stage runs on."""
    if setup.cuda:
        return CUDA
    expected = CPU_PIECES[setup.stage] + MORE_PIECES[setup.precision]
    kernels = (0, 0, 0) if setup.precision == "fp32" else KERNELS
    low, middle, high = (sum(pair) for pair in zip(LIBRARIES, kernels, strict=True))
    pieces = Factors(expected, HIGHEST * expected)
    return Slack(WHOLE, pieces, "libraries", (low, middle, high))
