"""Whether a request may be answered: no foreign web page, and nobody without a key."""

import hmac
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends
from starlette.requests import Request

from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.settings import LOOPBACK, Settings

LOCAL_NAMES = {"127.0.0.1", "localhost", "::1"}


def require_trusted(request: Request, settings: Settings) -> None:
    """Refuse what only a web page of another site would send.

    Args:
        request: The request; its body is not read.
        settings: On the loopback address only local names, and those of its ``hosts``, are answered
            to, so that no foreign name can be pointed here (DNS rebinding).

    Raises:
        ApiError: 403 for a foreign host or origin, 415 for a body that is not JSON by its header.
    """
    host = request.headers.get("host", "")
    known = LOCAL_NAMES | set(settings.hosts)
    if settings.host == LOOPBACK and _name_in(host) not in known:
        raise ApiError(403, f"host {host!r} is not this machine", code="foreign_host")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("//")[2] != host:
        raise ApiError(403, f"origin {origin!r} is another site", code="foreign_origin")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json":
        raise ApiError(415, "content-type must be application/json", code="unsupported_media_type")


def require_key(request: Request, keys: Sequence[bytes]) -> None:
    """Refuse a request without one of ``keys``; any will do, and none, where there are none.

    Raises:
        ApiError: 401.
    """
    if not keys:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Every key is compared, each in constant time: how long it takes tells nothing of any.
    right = [hmac.compare_digest(key, given.strip().encode()) for key in keys]
    if scheme.lower() != "bearer" or not any(right):
        raise ApiError(
            401, "a valid API key is needed: Authorization: Bearer KEY", code="invalid_api_key"
        )


def before_each(check: Callable[[Request], None]) -> Any:
    """``check`` as a dependency of FastAPI that runs on the event loop.

    For a plain function each request would wait for a thread, and under load all would for each
    other.
    """

    async def checked(request: Request) -> None:
        check(request)

    return Depends(checked)


def _name_in(host: str) -> str | None:
    """Without the port; None if it is no host at all."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
