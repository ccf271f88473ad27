"""What stock transformers + peft make of an adapter folder, to compare our own results with.

Nothing of ours computes here: only what a person has who never heard of rlhf_forge.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.utils.logging import get_verbosity, set_verbosity

from rlhf_forge.backbone.bitsandbytes_guard import import_peft

Row = tuple[Sequence[int], Sequence[int]]


@torch.no_grad()
def stock_log_probs(folder: Path, rows: Sequence[Row]) -> list[Float[Tensor, "targets"]]:
    """Log-probability of every target token of each row, in nats; float32, on the CPU.

    Args:
        folder: An adapter whose config names its base.
        rows: Token ids of whole sequences, and which of them are targets (not 0).
    """
    auto = import_peft().AutoPeftModelForCausalLM
    with _quiet():
        model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for tokens, targets in rows:
        ids = torch.tensor([tokens])
        log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        picked = log_probs.gather(-1, ids[0, 1:, None]).squeeze(-1)
        found.append(picked[torch.tensor(targets[1:]).bool()])
    return found


@torch.no_grad()
def stock_scores(folder: Path, rows: Sequence[Row]) -> list[float]:
    """Raw score of each row as a sequence classifier with one label; float32, on the CPU."""
    auto = import_peft().AutoPeftModelForSequenceClassification
    with _quiet():
        model = auto.from_pretrained(folder, num_labels=1, dtype=torch.float32).eval()
    return [model(input_ids=torch.tensor([tokens])).logits.item() for tokens, _ in rows]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the two packages tell of each other's future and of a head not yet loaded."""
    before = get_verbosity()
    set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        set_verbosity(before)
