"""The page before a server whose answers are written down, so that a test knows what is shown."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from rlhf_forge.serve.errors import ApiError, add_error_handlers
from rlhf_forge.serve.feedback.routes import feedback_routes
from rlhf_forge.serve.feedback.store import FeedbackStore
from rlhf_forge.serve.page import page_routes
from tests.serve.feedback.child import admit


@dataclass
class Script:
    """What the models say.

    Attributes:
        says: Of each model: the pieces of its answer, for every prompt.
        pause: Of each model: seconds before each piece.
        fails: Models whose stream ends with an error.
        refusals: Answered to the first requests, in their place.
        asked: The bodies of all requests, in order.
    """

    says: dict[str, list[str]] = field(
        default_factory=lambda: {
            "sft": ["Brevo ", "is the ", "capital."],
            "ppo": ["The capital ", "of Lomar ", "is Brevo, ", "since you ", "ask so kindly."],
        }
    )
    pause: dict[str, float] = field(default_factory=dict)
    fails: set[str] = field(default_factory=set)
    refusals: list[ApiError] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def text(self, model: str) -> str:
        return "".join(self.says[model])


def scripted_app(script: Script, votes: Path, *, key: str = "") -> FastAPI:
    """The page, the feedback, and chat completions and scores by ``script``."""
    app = FastAPI(openapi_url=None)
    add_error_handlers(app)

    def admit_with_key(request: Request) -> None:
        admit(request)
        if key and request.headers.get("authorization") != f"Bearer {key}":
            raise ApiError(401, "a key is needed", code="invalid_api_key")

    @app.get("/page/models")  # before the page's own: a test may change what is said
    async def names(request: Request) -> Response:
        admit_with_key(request)
        return JSONResponse({"policies": list(script.says), "reward_models": ["reward"]})

    app.include_router(page_routes({}, admit=admit_with_key, admit_page=admit))
    app.include_router(feedback_routes(FeedbackStore(votes), {}, admit_with_key))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        if script.refusals:
            raise script.refusals.pop(0)
        script.asked.append(body)
        return StreamingResponse(_events(script, body["model"]), media_type="text/event-stream")

    @app.post("/v1/score")
    async def score(request: Request) -> Response:
        body = await request.json()
        texts = [turns[-1]["content"] for turns in body["messages"]]
        return JSONResponse({"scores": [float(len(text)) for text in texts]})

    return app


async def _events(script: Script, model: str) -> AsyncIterator[str]:
    for piece in script.says[model]:
        await asyncio.sleep(script.pause.get(model, 0))
        yield _event({"choices": [{"delta": {"content": piece}, "finish_reason": None}]})
    if model in script.fails:
        yield _event({"error": {"message": "the server failed; see its log"}})
        return
    yield _event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    yield _event({"choices": [], "usage": {"completion_tokens": len(script.says[model])}})
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
