"""The LitServe app: one worker with the base, one process that speaks HTTP."""

import os
import socket

from litserve import LitServer

from rlhf_forge.errors import UserError
from rlhf_forge.serve.errors import add_error_handlers
from rlhf_forge.serve.lifecycle import children_end_with_us
from rlhf_forge.serve.models import ServedModels
from rlhf_forge.serve.routes import Routes
from rlhf_forge.serve.worker import Worker

HOSTS = ("127.0.0.1", "0.0.0.0", "::")
MAX_BODY_BYTES = 2**20
# Longest wait for the worker before a request is given up.
QUEUE_SECONDS = 120.0
# For answers under way when the server is told to end.
DRAIN_SECONDS = 10


def build_server(models: ServedModels, host: str) -> LitServer:
    """The server of ``models``, not yet running."""
    worker = Worker(models.weights, models.template.eos_ids, Routes(models, host))
    server = LitServer(
        worker,
        # The worker chooses its device itself; one of any kind means one worker.
        accelerator="cpu",
        timeout=QUEUE_SECONDS,
        max_payload_size=MAX_BODY_BYTES,
        disable_openapi_url=True,
    )
    server.uvicorn_graceful_timeout = DRAIN_SECONDS
    add_error_handlers(server.app)
    return server


def run_server(models: ServedModels, *, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        UserError: If the address cannot be had or the models cannot be loaded.
    """
    _require_address(host, port)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the HTTP process is a fork of this one
    server = build_server(models, host)
    with children_end_with_us():
        try:
            server.run(host, port, log_level="warning", generate_client_file=False)
        except KeyboardInterrupt:
            return
        except RuntimeError as error:
            raise UserError("serve: the models could not be loaded; see above") from error


def _require_address(host: str, port: int) -> None:
    if host not in HOSTS:
        raise UserError(f"--host {host}: must be one of {', '.join(HOSTS)}")
    if not 1024 <= port <= 65535:
        raise UserError(f"--port {port}: must be from 1024 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--port {port}: {host}:{port} cannot be had: {error.strerror}",
                hint=f"another server may run there; try --port {port + 1}",
            ) from None
