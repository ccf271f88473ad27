"""Whether a request may be answered: a foreign web page must not drive a server without a key."""

from urllib.parse import urlsplit

from starlette.requests import Request

from rlhf_forge.serve.errors import ApiError

LOOPBACK = "127.0.0.1"
LOCAL_NAMES = {"127.0.0.1", "localhost", "::1"}


def require_trusted(request: Request, bound_to: str) -> None:
    """Refuse what only a web page of another site would send.

    Args:
        request: The request; its body is not read.
        bound_to: The address served on. On the loopback address only local names are answered to,
            so that no foreign name can be pointed here (DNS rebinding).

    Raises:
        ApiError: 403 for a foreign host or origin, 415 for a body that is not JSON by its header.
    """
    host = request.headers.get("host", "")
    if bound_to == LOOPBACK and _name_in(host) not in LOCAL_NAMES:
        raise ApiError(403, f"host {host!r} is not this machine", code="foreign_host")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("//")[2] != host:
        raise ApiError(403, f"origin {origin!r} is another site", code="foreign_origin")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json":
        raise ApiError(415, "content-type must be application/json", code="unsupported_media_type")


def _name_in(host: str) -> str | None:
    """Without the port; None if it is no host at all."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
