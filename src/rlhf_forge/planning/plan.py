"""Peak memory of a stage, part by part: what is held all the time, and the larger of two phases."""

from dataclasses import dataclass

from rlhf_forge.backbone.nf4_codes import MOST_ROWS
from rlhf_forge.planning.activations import activations, logits, unpacked
from rlhf_forge.planning.demand import Demand, heaviest
from rlhf_forge.planning.micro_batch import MicroBatch
from rlhf_forge.planning.rollout_cache import cache_bytes, prefill_bytes
from rlhf_forge.planning.setup import Setup
from rlhf_forge.planning.slack import slack_of
from rlhf_forge.planning.weights import (
    COMPUTED_IN,
    adapter_bytes,
    base_bytes,
    gradient_bytes,
    joined_bytes,
    moment_bytes,
)


@dataclass(frozen=True)
class Part:
    """Bytes of one part.

    Attributes:
        name: As it is shown.
        low: If steps are as small as they get.
        expected: In the largest step that is to be met.
        high: In the worst step that the data allows, and memory in pieces besides.
    """

    name: str
    low: int
    expected: int
    high: int


@dataclass(frozen=True)
class Plan:
    """Peak memory of a stage.

    Attributes:
        parts: That are held at the peak.
        known: Whether lengths are those of the data.
        context: Name of the part that is no tensor's.
    """

    parts: tuple[Part, ...]
    known: bool
    context: str

    @property
    def low(self) -> int:
        """Bytes in all."""
        return sum(part.low for part in self.parts)

    @property
    def expected(self) -> int:
        """Bytes in all."""
        return sum(part.expected for part in self.parts)

    @property
    def high(self) -> int:
        """Bytes in all."""
        return sum(part.high for part in self.parts)

    def comparable(self, *, cuda: bool) -> dict[str, int]:
        """Bytes to hold beside what is measured: torch counts no CUDA context."""
        parts = [part for part in self.parts if not cuda or part.name != self.context]
        names = ("low", "expected", "high")
        return {name: sum(getattr(part, name) for part in parts) for name in names}


def plan_of(setup: Setup, demand: Demand) -> Plan:
    """Peak memory of a stage whose steps hold these rows."""
    slack = slack_of(setup)
    each = [heaviest(setup, step) for step in demand.steps]
    worst = heaviest(setup, demand.longest) if demand.known else each[0]
    ordered = sorted([*each, worst], key=lambda part: activations(setup.decoder, part))
    expected = max(each, key=lambda part: activations(setup.decoder, part))
    update = _update(setup, ordered[0], expected, ordered[-1])
    rollout = _rollout(setup, demand.prompt)
    phase = max(update, rollout, key=lambda parts: sum(part.high for part in parts))
    held = [*_held(setup), *phase]
    pieces = [
        Part(p.name, p.low, round(p.expected * s.expected), round(p.high * s.high))
        for p in held
        for s in [slack.pieces if p in phase else slack.whole]
    ]
    return Plan((*pieces, Part(slack.name, *slack.fixed)), demand.known, slack.name)


def _held(setup: Setup) -> list[Part]:
    """What does not depend on the step."""
    shape, rank = setup.shape, setup.rank
    base = base_bytes(shape, setup.precision)
    if setup.packs and not setup.cuda:
        base += joined_bytes(shape, setup.precision)
    adapters = adapter_bytes(shape, rank, setup.roles, setup.precision)
    optimiser = moment_bytes(shape, rank, setup.roles, kept_state=not setup.cuda)
    gradients = gradient_bytes(shape, rank, setup.roles)
    if not setup.cuda:  # what a CPU's heap frees in one phase it does not lack in the other
        optimiser += gradients
    return [_sure("base", base), _sure("adapters", adapters), _sure("optimiser", optimiser)]


def _update(setup: Setup, least: MicroBatch, expected: MicroBatch, most: MicroBatch) -> list[Part]:
    decoder = setup.decoder
    gradients = gradient_bytes(setup.shape, setup.rank, setup.roles)
    widest = [activations(decoder, part) for part in (least, expected, most)]
    rows = [0] * 3
    if setup.stage != "reward":
        rows = [logits(decoder, part) for part in (least, expected, most)]
    return [
        *([_sure("gradients", gradients)] * setup.cuda),
        Part("activations", *widest),
        Part("logits", *rows),
        *([_sure("unpacked weights", unpacked(decoder))] * (setup.precision == "nf4")),
    ]


def _rollout(setup: Setup, prompt: int) -> list[Part]:
    """Generating; in the reward stage for its scale, when training is over."""
    if not setup.generated:
        return []
    size, new = COMPUTED_IN[setup.precision], setup.max_new_tokens
    shape, rows = setup.shape, setup.generated
    kept = cache_bytes(shape, size, rows=rows, prompt=prompt, new=new)
    read = prefill_bytes(shape, size, rows=rows, prompt=prompt, fused=setup.cuda)
    weights = unpacked(setup.decoder) if setup.precision == "nf4" else 0
    if setup.cuda:
        # Prompts are read before the cache has grown, and steps of few rows unpack nothing.
        grown = kept - cache_bytes(shape, size, rows=rows, prompt=prompt, new=0)
        read = max(0, read + weights - grown)
        weights = weights if rows > MOST_ROWS else 0
    return [
        _sure("KV cache", kept),
        _sure("copied adapter", shape.adapter(setup.rank) * size),
        _sure("activations", read),
        _sure("logits", 2 * 4 * rows * shape.vocab),
        *([_sure("unpacked weights", weights)] * (weights > 0)),
    ]


def _sure(name: str, size: int) -> Part:
    return Part(name, size, size, size)
