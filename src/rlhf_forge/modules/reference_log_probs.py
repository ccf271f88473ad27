"""Log-probs of pairs of responses, and those under the frozen reference: computed once, kept.

The reference never changes, so one forward over the pairs does for all passes, and for all runs on
the same pairs. It is made on the very micro-batches in which training first meets them: then a
policy that equals the reference has the same bits there, on any dtype.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice
from math import ceil, nan
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from rlhf_forge import ranks
from rlhf_forge.artefact import Expected
from rlhf_forge.backbone.adapter_files import AdapterWeights
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.log_prob_files import read_log_probs, write_log_probs
from rlhf_forge.data.collate import PairBatch, collate_pairs
from rlhf_forge.data.loading import digest_of
from rlhf_forge.data.module import show
from rlhf_forge.data.stream import Stream
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.errors import UserError
from rlhf_forge.modules.goldens import setup_name
from rlhf_forge.modules.memory import Sized, within_memory

# For each micro-batch the numbers of its examples, in its order.
Plan = list[list[int]]
# Takes a step's pairs; gives those of each micro-batch.
Cut = Callable[[PairBatch], list[list[int]]]


def response_log_probs(
    backbone: Backbone, role: str, batch: PairBatch
) -> Float[Tensor, "two pairs"]:
    """Summed log-probs of the chosen (row 0) and rejected (row 1) responses, in nats."""
    with backbone.using(role):
        log_probs, _ = backbone.log_probs(batch.tokens, batch.response, temperature=1.0)
    return log_probs.sum(-1).view(2, -1)


def first_round(stream: Stream, examples: Sequence[PairExample], cut: Cut, *, batches: int) -> Plan:
    """The micro-batches in which training first meets each pair.

    Args:
        stream: From position 0.
        examples: What it numbers.
        cut: How training cuts a batch.
        batches: Of the whole run; pairs that it does not get to are left out.
    """
    number = min(batches, ceil(len(examples) / stream.batch_size))
    return _cut([[n for _, n in batch] for batch in islice(stream, number)], examples, cut)


def in_order(examples: Sequence[PairExample], cut: Cut, *, batch_size: int, batches: int) -> Plan:
    """The micro-batches of held-out pairs, which come in their order."""
    starts = range(0, len(examples), batch_size)[:batches]
    numbers = range(len(examples))
    return _cut([list(numbers[start : start + batch_size]) for start in starts], examples, cut)


def fingerprint_of(
    examples: Sequence[PairExample],
    plan: Plan,
    *,
    adapter: AdapterWeights | None,
    expected: Expected,
    precision: str,
    device: torch.device,
) -> str:
    """SHA-256 over all that log-probs under a reference are computed from.

    How the pairs are cut into micro-batches counts, and so does the device: both move the last
    bits, and a run's numbers are not to depend on what another one left on the disk.

    Args:
        examples: The pairs, as tokens.
        plan: How they are cut.
        adapter: Of the reference; None: it is the bare base.
        expected: Base, tokenizer and chat template.
        precision: How the base is held.
        device: Where it lies.
    """
    parts = {
        "examples": digest_of(examples),
        "plan": plan,
        "adapter": None if adapter is None else _content_of(adapter),
        "base": expected.base_fingerprint,
        "template": expected.template_hash,
        "precision": precision,
        "device": setup_name(device),
    }
    return sha256(json.dumps(parts).encode()).hexdigest()


class Reader(Sized, Protocol):
    """What a module must have to ask its reference."""

    backbone: Backbone


def reference_log_probs(
    module: Reader,
    examples: Sequence[PairExample],
    plan: Callable[[], Plan],
    *,
    fingerprint: Callable[[Plan], str],
    folder: Path,
    bar: bool = False,
) -> Float[Tensor, "two examples"]:
    """Summed log-probs of chosen and rejected responses under the role ``reference``, in nats.

    Read, if they are in ``folder`` or in that of another stage or run beside it; else computed and
    written there. A broken or foreign file is said and computed again. Of several processes the
    first reads and writes, and each computes a share.

    Args:
        module: Whose backbone has the role.
        examples: The pairs.
        plan: Gives their micro-batches, by the module's present size.
        fingerprint: Of all of these and a plan; see `fingerprint_of`.
        folder: Of the stage.
        bar: Show how far it is, on stderr, if someone is looking.

    Returns:
        On the backbone's device; nan for pairs that are in no micro-batch.
    """

    def attempt(plan: Plan) -> tuple[str, bool, Tensor]:
        mark = fingerprint(plan)
        kept = ranks.from_first(partial(_kept, mark, folder))
        if kept is not None:
            return mark, True, kept.to(module.backbone.device)
        batches = _shown(plan) if bar and ranks.rank() == 0 else plan
        return mark, False, _computed(module.backbone, examples, batches)

    mark, is_kept, found = within_memory(module, plan, attempt)
    if is_kept:
        return found
    for part in ranks.gathered([found.cpu()]):
        found = torch.where(found.isnan(), part.to(found.device), found)
    if ranks.rank() == 0:
        write_log_probs(found.cpu(), _file(folder, mark), fingerprint=mark)
    return found


def _file(folder: Path, fingerprint: str) -> Path:
    return folder / f"reference-{fingerprint[:16]}.safetensors"


def _kept(fingerprint: str, folder: Path) -> Tensor | None:
    """What an earlier run wrote, on the CPU."""
    own = _file(folder, fingerprint)
    for path in dict.fromkeys([own, *sorted(folder.parent.glob(f"*/{own.name}"))]):
        if path.is_file():
            try:
                found = read_log_probs(path, fingerprint=fingerprint)
            except UserError as error:
                show([f"{error}: computed again"])
                continue
            show([f"reference: log-probs of pairs read from {path}"])
            return found
    return None


@torch.no_grad()
def _computed(
    backbone: Backbone, examples: Sequence[PairExample], plan: Iterable[list[int]]
) -> Float[Tensor, "two examples"]:
    """Of this process's share of the micro-batches; nan for all other pairs."""
    found = torch.full((2, len(examples)), nan, device=backbone.device)
    met: set[int] = set()
    for turn, numbers in enumerate(plan):
        # The last batch of the first round goes on into the second; the first meeting counts.
        row_of = {n: row for row, n in reversed(list(enumerate(numbers))) if n not in met}
        met |= row_of.keys()
        if turn % ranks.count() != ranks.rank():
            continue
        batch = collate_pairs([(number, examples[number]) for number in numbers])
        sides = (batch.tokens, batch.mask, batch.response, batch.positions)
        batch = PairBatch(*(part.to(backbone.device) for part in sides))
        log_probs = response_log_probs(backbone, "reference", batch)
        found[:, list(row_of)] = log_probs[:, list(row_of.values())]
    return found


def _shown(plan: Plan) -> Iterable[list[int]]:
    console = Console(stderr=True)
    return track(plan, "reference", console=console, disable=not console.is_terminal)


def _cut(batches: Sequence[list[int]], examples: Sequence[PairExample], cut: Cut) -> Plan:
    plan: Plan = []
    for numbers in batches:
        batch = collate_pairs([(number, examples[number]) for number in numbers])
        plan += [[numbers[row] for row in rows] for rows in cut(batch)]
    return plan


def _content_of(adapter: AdapterWeights) -> str:
    digest = sha256(str(adapter.lora).encode())
    for name, pair in sorted(adapter.pairs.items()):
        digest.update(name.encode())
        for tensor in pair:
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
