"""A run that is told to stop finishes its step, writes it down and leaves."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from rlhf_forge import ranks
from rlhf_forge.callbacks.checkpoints import batches_done, log_step, save_last

Handler = Callable[[int, FrameType | None], None]
SAID = b"\nstopping behind this step (a second Ctrl-C stops at once)\n"


class CleanStop(Callback):
    """Ctrl-C and SIGTERM end a run behind its running step, in PPO iteration, which is saved.

    In the middle of a step there is nothing to save that a run could go on from to the same
    weights. SIGTERM is caught by Lightning, which leaves behind the step too, but saves nothing.
    Of several processes all leave behind the same step, whichever was told. Lightning's handler of
    SIGTERM, which waits for them in the middle of one, is put aside then.
    """

    def __init__(self) -> None:
        self.asked = self.terminated = False
        self.before: dict[signal.Signals, Any] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # only there one may
            self._take(signal.SIGINT, self._ask)
            if trainer.world_size > 1:
                self._take(signal.SIGTERM, self._terminate)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        asked = ranks.any_of(self.asked)
        terminated = ranks.any_of(self.terminated)
        if asked or terminated or trainer.received_sigterm:
            log_step(trainer)
            save_last(trainer)
        if asked:
            raise KeyboardInterrupt
        if terminated and batches_done(trainer) < trainer.limit_train_batches:
            raise SIGTERMException

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._let_go(signal.SIGINT)  # no step follows for a while, or none at all

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.on_train_start(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._let_go(signal.SIGINT, signal.SIGTERM)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if not isinstance(exception, KeyboardInterrupt):  # then Lightning ignores any further one
            self._let_go(signal.SIGINT, signal.SIGTERM)

    def _take(self, number: signal.Signals, handler: Handler) -> None:
        if number not in self.before:
            self.before[number] = signal.signal(number, handler)

    def _let_go(self, *numbers: signal.Signals) -> None:
        for number in self.before.keys() & numbers:
            signal.signal(number, self.before.pop(number))

    def _terminate(self, number: int, frame: object) -> None:
        self.terminated = True

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        os.write(2, SAID)  # a handler may have broken in on a write to sys.stderr
