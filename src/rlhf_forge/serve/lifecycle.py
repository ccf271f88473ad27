"""Ending all processes of the server together, however the first of them ends."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS_TO_END = 5.0


def die_with_parent() -> None:
    """End this process soon after its parent is gone, be it by kill -9."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


@contextmanager
def children_end_with_us() -> Iterator[None]:
    """End by SIGTERM as by Ctrl-C, in good order, and leave no child process behind.

    LitServe by itself dies of SIGTERM and its children serve on.
    """
    main = os.getpid()

    def stop(*_: int | FrameType | None) -> None:
        # Forked children inherit this handler; they have nothing of ours to put in order.
        raise KeyboardInterrupt if os.getpid() == main else SystemExit(0)

    before = signal.signal(signal.SIGTERM, stop)
    os.register_at_fork(after_in_child=die_with_parent)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _end_children()


def _end_children() -> None:
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(SECONDS_TO_END)
        if child.is_alive():
            child.kill()
