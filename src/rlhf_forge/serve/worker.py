"""The one process that holds the base."""

import logging
import signal
import sys
import time

import torch
from litserve import LitAPI
from litserve.specs.base import LitSpec
from transformers.utils.logging import disable_progress_bar
from typing_extensions import override

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.devices import default_device
from rlhf_forge.errors import UserError
from rlhf_forge.generation.engine import Engine
from rlhf_forge.generation.scheduler import Scheduler
from rlhf_forge.serve.lifecycle import die_with_parent
from rlhf_forge.serve.loop import TokenLoop
from rlhf_forge.serve.models import Weights, load_models

# Where LitServe would print a traceback over an error that was already told in one line.
LITSERVE_LOGGER = "litserve.loops.loops"


class Worker(LitAPI):  # type: ignore[misc]  # litserve has no types
    """Loads the models; `TokenLoop` works with them.

    Args:
        weights: What to load.
        eos_ids: Ids that end a response.
        spec: The routes in front of it.
        slots: Most rows at once.
        prefill_tokens: Prompt tokens read at most between two steps.
    """

    def __init__(
        self,
        weights: Weights,
        eos_ids: frozenset[int],
        spec: LitSpec,
        *,
        slots: int,
        prefill_tokens: int,
    ) -> None:
        super().__init__(spec=spec, loop=TokenLoop())
        self.weights = weights
        self.eos_ids = eos_ids
        self.slots = slots
        self.prefill_tokens = prefill_tokens

    @override
    def setup(self, device: str) -> None:
        # Ctrl-C reaches every process of the terminal; the main one ends this one in good order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent()
        # Its lock would be reported as leaked: this process is ended by a signal.
        disable_progress_bar()  # type: ignore[no-untyped-call]
        started = time.monotonic()
        try:
            self.open(default_device())
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            logging.getLogger(LITSERVE_LOGGER).disabled = True
            raise
        seconds = time.monotonic() - started
        sys.stderr.write(f"loaded in {seconds:.1f} s on {self.backbone.device}\n")

    def open(self, device: torch.device) -> None:
        """Load the models onto ``device``."""
        self.backbone: Backbone = load_models(self.weights, device)
        engine = Engine(self.backbone, slots=self.slots, eos_ids=self.eos_ids)
        self.scheduler = Scheduler(engine, prefill_tokens=self.prefill_tokens)

    @override
    def decode_request(self, request: object) -> object:
        raise NotImplementedError("orders come as token ids; see TokenLoop")

    @override
    def predict(self, x: object) -> object:
        raise NotImplementedError("rows run together; see TokenLoop")

    @override
    def encode_response(self, output: object) -> object:
        raise NotImplementedError("text is made in the HTTP process; see Routes")
