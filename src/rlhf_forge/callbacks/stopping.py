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
from rlhf_forge.callbacks.checkpoints import (
    batches_done,
    log_step,
    save_last,
    validation_follows,
)

Handler = Callable[[int, FrameType | None], None]
SAID = b"\nstopping behind this step (a second Ctrl-C stops at once)\n"


class CleanStop(Callback):
    """Ctrl-C and SIGTERM end a run behind its running step, in PPO iteration, which is saved.

    If a validation is due they end it behind that; a second Ctrl-C does not wait. In the middle of
    a step there is nothing to save that a run could go on from to the same weights. Of several
    processes all leave behind the same step, whichever was told. Lightning's handler of SIGTERM,
    which saves nothing and may leave in the middle of a validation, is put aside.
    """

    def __init__(self) -> None:
        self.asked = self.terminated = False
        self.before: dict[signal.Signals, Any] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # only there one may
            ours = {signal.SIGINT: self._ask, signal.SIGTERM: self._terminate}
            self.before = {number: signal.signal(number, hears) for number, hears in ours.items()}

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._is_told():
            log_step(trainer)
            save_last(trainer)  # who has sent SIGTERM may not wait for a validation
            if not validation_follows(trainer):
                self._leave(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and self._is_told():
            save_last(trainer)
            self._leave(trainer)

    def _is_told(self) -> bool:
        self.asked = ranks.any_of(self.asked)
        self.terminated = ranks.any_of(self.terminated)
        return self.asked or self.terminated

    def _leave(self, trainer: Trainer) -> None:
        if self.asked:
            raise KeyboardInterrupt
        if self.terminated and batches_done(trainer) < trainer.limit_train_batches:
            raise SIGTERMException

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._let_go()

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if not isinstance(exception, KeyboardInterrupt):  # then Lightning ignores any further one
            self._let_go()

    def _let_go(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _terminate(self, number: int, frame: object) -> None:
        self.terminated = True

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        os.write(2, SAID)  # a handler may have broken in on a write to sys.stderr
