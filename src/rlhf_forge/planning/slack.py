"""What arithmetic does not know: memory in pieces, and what libraries hold for themselves.

The CPU's numbers are fitted by hand to a few short runs, until `benchmarks/plan.py` has been run to
its end. On a GPU what torch says was allocated is the tensors and nothing else; how much more it
holds is from one run of PPO on an H100 (8 %), and the context is a guess.
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


# Of the activations, by precision: bf16 takes more steps to settle.
CPU_PIECES = {"fp32": Factors(1.05, 1.3), "bf16": Factors(1.2, 1.5), "nf4": Factors(1.2, 1.5)}
# PPO generates, scores and updates in one heap: what one leaves does not fit the next.
PPO_PIECES = 0.15
WHOLE = Factors(1.0, 1.02)
LIBRARIES = (10 * MIB, 40 * MIB, 200 * MIB)
CUDA = Slack(WHOLE, Factors(1.0, 1.2), "CUDA context", (350 * MIB, 500 * MIB, 900 * MIB))


def slack_of(setup: Setup) -> Slack:
    """Of the device that a stage runs on."""
    if setup.cuda:
        return CUDA
    more = PPO_PIECES if setup.stage == "ppo" else 0.0
    pieces = Factors(*(factor + more for factor in CPU_PIECES[setup.precision]))
    return Slack(WHOLE, pieces, "libraries", LIBRARIES)
