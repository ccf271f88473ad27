"""How long a run takes, from the speed of one layer and the counts of its steps."""

from dataclasses import dataclass
from math import ceil

from rlhf_forge.planning.demand import Demand, parts_of
from rlhf_forge.planning.setup import Setup
from rlhf_forge.planning.speed import Speed


@dataclass(frozen=True)
class Duration:
    """Of a run, validation, checkpoints and start left out.

    Attributes:
        tokens_per_second: Real tokens, prompt and response; each once, however often it is read.
        hours: Of all steps.
    """

    tokens_per_second: float
    hours: float


def duration_of(setup: Setup, demand: Demand, speed: Speed) -> Duration:
    """What the steps of a run take.

    A step's tokens go through all layers forth and back, once for each role that trains; PPO reads
    each rollout under every role first, and generates it.
    """
    parts = [part for step in demand.steps for part in parts_of(setup, step)]
    steps = len(demand.steps)
    tokens, wanted = (sum(p.tokens for p in parts) / steps, sum(p.wanted for p in parts) / steps)
    real = sum(r.length for step in demand.steps for item in step for r in item) / steps
    layers = setup.shape.layers
    both = speed.both + (speed.forward if setup.recomputes else 0.0)
    logits = 0.0 if setup.stage == "reward" else wanted * setup.shape.vocab * speed.logit
    passes = setup.epochs * setup.roles.trained
    seconds = passes * layers * tokens * both + setup.epochs * logits
    if setup.stage == "ppo":
        read = setup.roles.trained + setup.roles.frozen
        seconds += read * layers * tokens * speed.forward + logits
        seconds += _generated(setup, speed)
    return Duration(real / seconds, setup.length * seconds / 3600)


def _generated(setup: Setup, speed: Speed) -> float:
    """Seconds of one rollout whose responses are all as long as they may be."""
    rounds = ceil(setup.batch_size * setup.each / max(setup.generated, 1))
    drawn = setup.generated * setup.shape.vocab * speed.logit / 2
    return rounds * setup.max_new_tokens * (setup.shape.layers * speed.step + drawn)
