"""A server with nothing but the feedback, to be run as a process of its own and killed."""

from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request

from rlhf_forge.serve.errors import add_error_handlers
from rlhf_forge.serve.feedback.routes import feedback_routes
from rlhf_forge.serve.feedback.store import FeedbackStore
from rlhf_forge.serve.settings import Settings
from rlhf_forge.serve.trust import require_trusted


def admit(request: Request) -> None:
    require_trusted(request, Settings())


def feedback_app(path: Path) -> FastAPI:
    app = FastAPI(openapi_url=None)
    add_error_handlers(app)
    app.include_router(feedback_routes(FeedbackStore(path), {}, admit))
    return app


def serve(port: int, path: Path) -> None:
    uvicorn.run(feedback_app(path), port=port, log_level="warning")
