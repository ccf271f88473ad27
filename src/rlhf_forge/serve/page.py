"""The page at ``/``: static files, and what they need to know of the server."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from rlhf_forge.artefact import read_manifest
from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.feedback.routes import feedback_routes
from rlhf_forge.serve.feedback.store import FeedbackStore
from rlhf_forge.serve.models import ServedModels
from rlhf_forge.serve.trust import before_each

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The page runs its own files, talks to its own server, and cannot be framed; nothing inline runs.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def add_page(
    app: FastAPI,
    models: ServedModels,
    feedback: Path,
    *,
    admit: Callable[[Request], None],
    admit_page: Callable[[Request], None],
) -> None:
    """Add the page and the feedback to a server.

    Args:
        app: Gets the routes, before those that it has.
        models: What can be talked to.
        feedback: The file of votes.
        admit: Raises `ApiError` for a request that is not to be answered.
        admit_page: The same for the page's files, which hold nothing that is secret.
    """
    artefacts = {
        name: read_manifest(folder).fingerprint
        for name, folder in models.weights.adapters.items()
        if folder is not None
    }
    known = {"policies": models.policies, "reward_models": models.reward_models}
    before = list(app.router.routes)
    app.include_router(page_routes(known, admit=admit, admit_page=admit_page))
    app.include_router(feedback_routes(FeedbackStore(feedback), artefacts, admit))
    # LitServe has a route for / of its own.
    app.router.routes[:] = [r for r in app.router.routes if r not in before] + before


def page_routes(
    known: dict[str, tuple[str, ...]],
    *,
    admit: Callable[[Request], None],
    admit_page: Callable[[Request], None],
) -> APIRouter:
    """The page's files at ``/`` and ``/page/NAME``, and the models' names.

    Args:
        known: Names of the ``policies`` and of the ``reward_models``.
        admit: As of `add_page`.
        admit_page: As of `add_page`.
    """
    router = APIRouter()
    contents = page_files()

    @router.get("/page/models", dependencies=[before_each(admit)])
    async def names() -> Response:
        return JSONResponse(known)

    @router.get("/", dependencies=[before_each(admit_page)])
    async def index() -> Response:
        return contents["index.html"]()

    @router.get("/page/{name}", dependencies=[before_each(admit_page)])
    async def file(name: str) -> Response:
        if name not in contents:
            raise ApiError(404, f"GET /page/{name}: Not Found", code="not_found")
        return contents[name]()

    return router


def page_files() -> dict[str, Callable[[], Response]]:
    """Every file of the page by its name, read once: no name from a request touches the disk."""

    def answer(content: bytes, kind: str) -> Callable[[], Response]:
        return lambda: Response(content, media_type=kind, headers=HEADERS)

    folder = files("rlhf_forge.serve").joinpath("assets")
    return {
        file.name: answer(file.read_bytes(), KINDS[Path(file.name).suffix])
        for file in folder.iterdir()
        if Path(file.name).suffix in KINDS
    }
