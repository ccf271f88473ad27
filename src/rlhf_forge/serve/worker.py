"""The one process that holds the base: jobs of token ids in, tokens or scores out."""

import logging
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from litserve import LitAPI
from litserve.specs.base import LitSpec
from transformers.utils.logging import disable_progress_bar
from typing_extensions import override

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.devices import default_device
from rlhf_forge.backbone.scoring import score
from rlhf_forge.errors import UserError
from rlhf_forge.generation.decode import Request, decode
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.serve.lifecycle import die_with_parent
from rlhf_forge.serve.models import Weights, load_models

# Where LitServe would print a traceback over an error that was already told in one line.
LITSERVE_LOGGER = "litserve.loops.loops"


@dataclass(frozen=True)
class ChatJob:
    """One response to generate; its tokens are sent one by one."""

    request: Request
    sampling: Sampling


@dataclass(frozen=True)
class ScoreJob:
    """Answers to score; their scores are sent one by one.

    Attributes:
        role: The reward model.
        rows: Token ids of each whole conversation, and which of them are the answer's.
    """

    role: str
    rows: list[tuple[list[int], list[bool]]]


class Worker(LitAPI):  # type: ignore[misc]  # litserve has no types
    """Loads the models and works through jobs, one after the other.

    Args:
        weights: What to load.
        eos_ids: Ids that end a response.
        spec: The routes in front of it.
    """

    def __init__(self, weights: Weights, eos_ids: frozenset[int], spec: LitSpec) -> None:
        super().__init__(spec=spec)
        self.weights = weights
        self.eos_ids = eos_ids
        self._backbone: Backbone | None = None

    @override
    def setup(self, device: str) -> None:
        # Ctrl-C reaches every process of the terminal; the main one ends this one in good order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent()
        # Its lock would be reported as leaked: this process is ended by a signal.
        disable_progress_bar()  # type: ignore[no-untyped-call]
        started = time.monotonic()
        try:
            self._backbone = load_models(self.weights, default_device())
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            logging.getLogger(LITSERVE_LOGGER).disabled = True
            raise
        seconds = time.monotonic() - started
        sys.stderr.write(f"loaded in {seconds:.1f} s on {self._backbone.device}\n")

    @override
    def decode_request(self, request: ChatJob | ScoreJob) -> ChatJob | ScoreJob:
        return request

    @override
    def predict(self, x: ChatJob | ScoreJob) -> Iterator[int | float]:
        assert self._backbone is not None
        if isinstance(x, ChatJob):
            yield from tokens_of(self._backbone, x, self.eos_ids)
        else:
            yield from scores_of(self._backbone, x)

    @override
    def encode_response(self, output: Iterator[int | float]) -> Iterator[int | float]:
        yield from output


def tokens_of(backbone: Backbone, job: ChatJob, eos_ids: frozenset[int]) -> Iterator[int]:
    """The tokens of a response, as they are drawn."""
    for step in decode(backbone, [job.request], job.sampling, eos_ids):
        yield step[0]


@torch.no_grad()
def scores_of(backbone: Backbone, job: ScoreJob) -> Iterator[float]:
    """The score of each row by itself: it does not depend on what it was sent with."""
    for tokens, targets in job.rows:
        ids = torch.tensor([tokens], device=backbone.device)
        mask = torch.tensor([targets], device=backbone.device)
        yield score(backbone, ids, mask, role=job.role).item()
