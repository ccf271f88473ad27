"""Ports that nobody else is given while the tests run."""

import atexit
import socket


def free_port() -> int:
    """A port of this machine that stays ours until the tests end, whoever listens on it.

    The socket that holds it does not listen itself, so that a server which sets SO_REUSEADDR, as
    all of ours do, can: now, and again after it was killed.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    atexit.register(held.close)
    return int(held.getsockname()[1])
