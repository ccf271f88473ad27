"""The LitServe app: one worker with the base, one process that speaks HTTP."""

import asyncio
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from litserve import LitServer
from litserve.utils import LitAPIStatus, LoopResponseType, ResponseBufferItem, WorkerSetupStatus
from typing_extensions import override

from rlhf_forge.errors import UserError
from rlhf_forge.serve.errors import add_error_handlers
from rlhf_forge.serve.http import Counted
from rlhf_forge.serve.jobs import Died
from rlhf_forge.serve.lifecycle import children_end_with_us
from rlhf_forge.serve.loop import NEWS
from rlhf_forge.serve.models import ServedModels
from rlhf_forge.serve.openapi import ASKED, BODIES
from rlhf_forge.serve.page import add_page
from rlhf_forge.serve.routes import OPENAPI, Routes
from rlhf_forge.serve.settings import Settings
from rlhf_forge.serve.worker import Worker

# Addresses that LitServe answers by itself and that we answer otherwise.
NOT_OURS = {"/", "/health", "/info"}


class ForgeServer(LitServer):  # type: ignore[misc]  # litserve has no types
    """LitServe with its supervision replaced.

    HTTP is answered while the models are loaded. A worker that dies is replaced at once, and who
    waited for it is told; one that dies before it has loaded ends the server.

    Args:
        worker: Holds the models.
        routes: Answer requests.
        settings: Bounds.
    """

    def __init__(self, worker: Worker, routes: Routes, settings: Settings) -> None:
        # The worker chooses its device itself; one of any kind means one worker.
        super().__init__(worker, accelerator="cpu", timeout=False, disable_openapi_url=True)
        self.worker = worker
        self.routes = routes
        self.failure: str | None = None
        self.uvicorn_graceful_timeout = settings.drain
        self._ending = False
        own = [r for r in self.app.router.routes if getattr(r, "path", None) not in NOT_OURS]
        self.app.router.routes[:] = own
        paths = (*BODIES, *ASKED, OPENAPI)
        self.app.add_middleware(Counted, metrics=routes.metrics, paths=paths)
        add_error_handlers(self.app)

    @override
    def verify_worker_status(self) -> None:
        """LitServe waits here until the models are loaded; requests are answered until then too."""

    @override
    def setup_auth(self, lit_api: Any = None) -> Any:
        """Nothing: the routes look at keys; LitServe's check takes every request to a thread."""
        return _nothing

    @asynccontextmanager
    @override
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        news = ResponseBufferItem(event=asyncio.Event(), response_queue=deque())
        self.response_buffer[NEWS] = news
        self.routes.dispatch.connect(self.routes.request_queue)
        async with super().lifespan(app):
            delivering = asyncio.create_task(self.routes.dispatch.deliver(news))
            try:
                yield
            finally:
                delivering.cancel()

    @override
    def _start_worker_monitoring(self, manager: Any, uvicorn_workers: dict[int, Any]) -> None:
        watch = threading.Thread(target=self._watch, args=(uvicorn_workers[0],), daemon=True)
        watch.start()

    @override
    def _perform_graceful_shutdown(self, *arguments: Any, **named: Any) -> None:
        self._ending = True
        super()._perform_graceful_shutdown(*arguments, **named)

    def _watch(self, http: Any) -> None:
        """Replace the worker whenever it dies; end the server if that is of no use."""
        while True:
            worker = self.inference_workers[0]
            ended = wait([worker.sentinel, http.sentinel])
            if self._ending:
                return
            if http.sentinel in ended:
                self.failure = "the process that answers requests died"
            elif WorkerSetupStatus.READY not in self.workers_setup_status.values():
                self.failure = "the models could not be loaded; see above"
            if self.failure is not None:
                self._shutdown_event.set()
                return
            worker.join()
            sys.stderr.write(f"the worker died (exit {worker.exitcode}); it is being restarted\n")
            died = (Died(), LitAPIStatus.OK, LoopResponseType.STREAMING, 0)
            self._transport.send((NEWS, died), consumer_id=0)
            self.inference_workers[0] = self.launch_single_inference_worker(self.worker, 0)


async def _nothing() -> None:
    return


def build_server(models: ServedModels, settings: Settings, keys: Sequence[bytes]) -> ForgeServer:
    """The server of ``models``, not yet running."""
    routes = Routes(models, settings, keys)
    worker = Worker(
        models.weights,
        models.template.eos_ids,
        routes,
        slots=settings.slots,
        prefill_tokens=settings.prefill_tokens,
    )
    server = ForgeServer(worker, routes, settings)
    add_page(
        server.app,
        models,
        Path(settings.feedback),
        admit=routes.require_allowed,
        admit_page=routes.require_trusted,
    )
    return server


def run_server(models: ServedModels, settings: Settings, keys: Sequence[bytes]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        UserError: If the address cannot be had or the models cannot be loaded.
    """
    _require_address(settings.host, settings.port)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the HTTP process is a fork of this one
    server = build_server(models, settings, keys)
    with children_end_with_us():
        try:
            server.run(
                settings.host, settings.port, log_level="warning", generate_client_file=False
            )
        except KeyboardInterrupt:
            return
    if server.failure is not None:
        raise UserError(f"serve: {server.failure}")


def _require_address(host: str, port: int) -> None:
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
