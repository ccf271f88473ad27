"""The rows of a run's steps: from its data where they are known, else as long as they may be."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from heapq import nlargest
from itertools import chain, islice

from rlhf_forge.data.collate import micro_batches
from rlhf_forge.data.stream import Stream
from rlhf_forge.data.tokenize import DemonstrationExample, Example, PairExample
from rlhf_forge.planning.activations import activations
from rlhf_forge.planning.micro_batch import MicroBatch, Row
from rlhf_forge.planning.setup import PAIRED, Setup

# Rows that are cut together: one, or both sides of a pair.
Item = tuple[Row, ...]
# Steps of the run that are looked at.
MOST_STEPS = 32
# Examples for each of a step's, among which the heaviest are looked for.
LOOKED_INTO = 16


@dataclass(frozen=True)
class Demand:
    """Examples of single steps.

    Attributes:
        steps: As the run will meet them, in its order.
        longest: The batch_size longest examples: no step is worse.
        prompt: Tokens of the longest prompt.
        known: Whether they are of the data, not of the limits in the config.
    """

    steps: tuple[tuple[Item, ...], ...]
    longest: tuple[Item, ...]
    prompt: int
    known: bool


def demand_of_limits(setup: Setup) -> Demand:
    """Every example as long as data.max_length lets it be, every response as max_new_tokens."""
    item = _item(setup, setup.max_length)
    step = (item,) * setup.batch_size * setup.each
    return Demand((step,), step, setup.max_length, known=False)


def demand_of(setup: Setup, examples: Sequence[Example], stream: Stream) -> Demand:
    """The first steps of a run, as its stream gives them.

    Args:
        setup: Of the run.
        examples: It is trained on.
        stream: From its start.
    """

    def rows_of(some: Iterable[Example]) -> tuple[Item, ...]:
        return tuple(item for e in some for item in [item_of(setup, e)] * setup.each)

    number = min(setup.length, MOST_STEPS)
    steps = tuple(rows_of(examples[at] for _, at in batch) for batch in islice(stream, number))
    # Of a million examples no more are looked into than these: what a pair shares is slow to see.
    long = nlargest(LOOKED_INTO * setup.batch_size, examples, key=partial(_at_most, setup))
    heavy = nlargest(setup.batch_size, long, key=lambda e: _cost(setup, item_of(setup, e)))
    longest = rows_of(heavy)
    return Demand(steps, longest, prompt=max(map(_prompt, examples)), known=True)


def with_least_responses(setup: Setup, demand: Demand) -> Demand:
    """The same, but that in PPO every response ends with its first token."""
    if setup.stage != "ppo":
        return demand

    def ended(step: Sequence[Item]) -> tuple[Item, ...]:
        return tuple((Row(row.length - row.wanted + 1, 1),) for (row,) in step)

    return replace(demand, steps=tuple(map(ended, demand.steps)), longest=ended(demand.longest))


def item_of(setup: Setup, example: Example) -> Item:
    """The rows that one example becomes."""
    if isinstance(example, PairExample):
        alike = _alike(example) if setup.packs else 0
        chosen = _row(len(example.chosen), example.chosen_response, setup)
        other = _row(len(example.rejected) - alike, example.rejected_response, setup)
        return chosen, replace(other, prefix=alike)
    if isinstance(example, DemonstrationExample):
        return (_row(len(example.tokens), example.targets, setup),)
    return _item(setup, len(example.tokens))


def parts_of(setup: Setup, step: Sequence[Item]) -> list[MicroBatch]:
    """The micro-batches that a step is cut into."""
    minibatches = [
        step[first : first + setup.minibatch_size]
        for first in range(0, len(step), setup.minibatch_size)
    ]
    packed = partial(MicroBatch.packed, cuda=setup.cuda)
    make = packed if setup.packs else MicroBatch.padded
    return [
        make([*chain.from_iterable(items[place] for place in cut)])
        for items in minibatches
        for cut in micro_batches(
            [_cost(setup, item) for item in items],
            max_tokens=setup.micro_batch_tokens,
            pads=not setup.packs,
        )
    ]


def heaviest(setup: Setup, step: Sequence[Item]) -> MicroBatch:
    """The micro-batch of a step that needs most memory."""
    return max(parts_of(setup, step), key=lambda part: activations(setup.decoder, part))


def _item(setup: Setup, length: int) -> Item:
    if setup.stage == "ppo":
        return (Row(length + setup.max_new_tokens, setup.max_new_tokens),)
    row = Row(length, 1 if setup.stage == "reward" else length)
    return (row, row) if setup.stage in PAIRED else (row,)


def _row(length: int, asked: Sequence[bool], setup: Setup) -> Row:
    return Row(length, 1 if setup.stage == "reward" else sum(asked))


def _length(item: Item) -> int:
    return max(row.length for row in item)


def _at_most(setup: Setup, example: Example) -> int:
    """Tokens that are computed for an example, if a pair's sides have nothing in common."""
    if not isinstance(example, PairExample):
        return len(example.tokens)
    sides = len(example.chosen), len(example.rejected)
    return sum(sides) if setup.packs else max(sides)


def _cost(setup: Setup, item: Item) -> int:
    """Tokens, as a step's rows are cut by."""
    return sum(row.length for row in item) if setup.packs else len(item) * _length(item)


def _alike(pair: PairExample) -> int:
    """Tokens that both sides begin with, which are packed once."""
    sides = enumerate(zip(pair.chosen, pair.rejected, strict=False))
    shorter = min(len(pair.chosen), len(pair.rejected))
    return next((at for at, (one, other) in sides if one != other), shorter)


def _prompt(example: Example) -> int:
    """Tokens before the first that is asked for."""
    if isinstance(example, PairExample):
        return example.chosen_response.index(True) if any(example.chosen_response) else 0
    if isinstance(example, DemonstrationExample):
        return example.targets.index(True) if any(example.targets) else 0
    return len(example.tokens)
