"""Prompts in, responses out: the engine kept full."""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.generation.engine import Engine, Entry, Request
from rlhf_forge.generation.sampler import Sampling

# Slots are filled again when this share of them is free: a forward over one short prompt costs
# nearly as much as one over several.
REFILL_AT = 1 / 8


@dataclass(frozen=True)
class Response:
    """What was generated.

    Attributes:
        tokens: Token ids, the end-of-sequence token included if it came.
        finished: False if the length limit cut the response.
    """

    tokens: list[int]
    finished: bool


def decode(
    backbone: Backbone,
    requests: Sequence[Request],
    sampling: Sampling,
    eos_ids: Collection[int],
) -> Iterator[dict[int, int]]:
    """Generate for all ``requests`` at once, yielding ``{request index: token}`` each step.

    A request ends after an id of ``eos_ids`` (which is yielded) or at ``max_new_tokens``; the loop
    ends with the last of them.
    """
    engine = Engine(backbone, slots=len(requests), eos_ids=eos_ids)
    engine.add([Entry(at, request, sampling) for at, request in enumerate(requests)])
    while engine.running:
        yield {one.name: one.token for one in engine.step()}


def generate(
    backbone: Backbone,
    requests: Sequence[Request],
    sampling: Sampling | Sequence[Sampling],
    eos_ids: Collection[int],
    *,
    max_rows: int,
) -> list[Response]:
    """Generate for all ``requests``, at most ``max_rows`` at a time; responses in their order.

    A response that has ended makes room for the next. Prompts are read by length, so little is
    padded; no row's randomness depends on who runs beside it.

    Args:
        backbone: With the roles of the requests.
        requests: What to generate.
        sampling: How; one for all, or one for each.
        eos_ids: Ids that end a response.
        max_rows: Slots of the engine.
    """
    each = [sampling] * len(requests) if isinstance(sampling, Sampling) else sampling
    responses: list[list[int]] = [[] for _ in requests]
    engine = Engine(backbone, slots=min(max_rows, len(requests)), eos_ids=eos_ids)
    # The same prompts side by side: what enters together is read once.
    order = sorted(range(len(requests)), key=lambda at: (len(requests[at].prompt), at))
    waiting = deque(Entry(at, requests[at], each[at]) for at in order)
    while waiting or engine.running:
        if waiting and (engine.free >= REFILL_AT * engine.slots or not engine.running):
            count = min(engine.free, len(waiting))
            engine.add([waiting.popleft() for _ in range(count)])
        for one in engine.step():
            responses[one.name].append(one.token)
    ends = frozenset(eos_ids)
    return [Response(tokens, tokens[-1] in ends) for tokens in responses]
