"""What arithmetic does not know: memory in pieces, and what libraries hold for themselves.

The CPU's numbers are measured (`benchmarks/plan.py`, benchmarks/README.md); the GPU's are guesses
until somebody measures them there.
"""

from typing import NamedTuple

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


CPU = Slack(Factors(1.0, 1.02), Factors(1.05, 1.3), "libraries", (10 * MIB, 30 * MIB, 150 * MIB))
CUDA = Slack(
    Factors(1.0, 1.02), Factors(1.1, 1.35), "CUDA context", (350 * MIB, 500 * MIB, 900 * MIB)
)


def slack_of(setup: Setup) -> Slack:
    """Of the device that a stage runs on."""
    return CUDA if setup.cuda else CPU
