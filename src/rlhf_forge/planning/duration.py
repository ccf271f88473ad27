"""How long a run takes, from the seconds of a token and the counts of its steps."""

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

    A step's tokens are learnt from; PPO generates each rollout first and reads it under every role,
    then learns from it as often as it has epochs.
    """
    steps = len(demand.steps)
    computed = sum(part.tokens for step in demand.steps for part in parts_of(setup, step)) / steps
    real = sum(r.length for step in demand.steps for item in step for r in item) / steps
    seconds = computed * (setup.epochs * speed.learnt + speed.read)
    if setup.stage == "ppo":
        answered = real - setup.batch_size * setup.each * setup.max_new_tokens
        rounds = ceil(setup.batch_size * setup.each / max(setup.generated, 1))
        # Responses are taken to be as long as they may be.
        seconds += answered * speed.prompt + rounds * setup.max_new_tokens * speed.drawn
    return Duration(real / seconds, setup.length * seconds / 3600)
