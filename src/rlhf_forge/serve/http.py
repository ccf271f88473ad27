"""Bodies read within bounds, callers who left noticed, requests counted."""

import asyncio
from collections.abc import Awaitable, Collection
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.metrics import Metrics

T = TypeVar("T")
MAX_BODY_BYTES = 2**20
# What is too long is read on and thrown away up to here: who is still sending when the answer
# comes would see a broken connection in its place.
MAX_DISCARDED_BYTES = 2**24
SECONDS_TO_SEND_A_BODY = 10.0


async def read_body(request: Request) -> bytes:
    """The body of a request.

    Raises:
        ApiError: 413 if it is longer than 1 MiB, 408 if it does not come.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(SECONDS_TO_SEND_A_BODY):
            async for part in request.stream():
                size += len(part)
                if size <= MAX_BODY_BYTES:
                    parts.append(part)
                elif size > MAX_DISCARDED_BYTES:
                    break
    except TimeoutError:
        seconds = f"{SECONDS_TO_SEND_A_BODY:g} seconds"
        raise ApiError(408, f"the body did not come within {seconds}", code="timeout") from None
    except ClientDisconnect:
        raise _left() from None
    if size > MAX_BODY_BYTES:
        message = f"the body is longer than {MAX_BODY_BYTES} bytes"
        raise ApiError(413, message, code="body_too_large")
    return b"".join(parts)


async def unless_left(request: Request, result: Awaitable[T]) -> T:
    """``result``, which is cancelled as soon as the caller has gone.

    Args:
        request: Its body has been read.
        result: What the caller waits for.

    Raises:
        ApiError: If the caller has gone; nobody reads it.
    """
    wanted, left = asyncio.ensure_future(result), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({wanted, left}, return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return wanted.result()
        raise _left()
    finally:
        left.cancel()
        wanted.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _left() -> ApiError:
    return ApiError(499, "the caller has gone", code="client_closed_request")


class Counted:
    """Counts requests by path and status; a path that is not ours is counted as other.

    Args:
        app: What answers.
        metrics: Where they are counted.
        paths: Ours.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and count the status that is sent."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counting)
