"""The HTTP side: what each address answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from litserve import LitAPI
from litserve.specs.base import LitSpec
from pydantic import BaseModel
from typing_extensions import override

from rlhf_forge.serve.answers import Answers
from rlhf_forge.serve.dispatch import Dispatch
from rlhf_forge.serve.errors import ApiError, parsed
from rlhf_forge.serve.http import read_body, unless_left
from rlhf_forge.serve.metrics import Metrics
from rlhf_forge.serve.models import ServedModels
from rlhf_forge.serve.openapi import openapi_document
from rlhf_forge.serve.orders import chat_entries, require_known, score_order, text_entries
from rlhf_forge.serve.replies import ChatReply, Reply, TextReply, event, usage
from rlhf_forge.serve.schemas import ChatRequest, Generation, ScoreRequest, TextRequest
from rlhf_forge.serve.settings import MAX_LENGTH, Settings
from rlhf_forge.serve.text_stream import TextStream
from rlhf_forge.serve.trust import require_key, require_trusted

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")
DONE = "data: [DONE]\n\n"
CHAT, TEXT, SCORE = "/v1/chat/completions", "/v1/completions", "/v1/score"
MODELS, LIVE, READY, METRICS = "/v1/models", "/health/live", "/health/ready", "/metrics"
OPENAPI = "/openapi.json"


class Routes(LitSpec):  # type: ignore[misc]  # litserve has no types
    """Several endpoints in front of one worker; LitServe gives each LitAPI its own.

    Args:
        models: What can be asked for.
        settings: Bounds and addresses.
        keys: API keys; none: everybody may ask.
    """

    def __init__(self, models: ServedModels, settings: Settings, keys: Sequence[bytes]) -> None:
        super().__init__()
        self.api_path = CHAT
        self.started = int(time.time())
        self.metrics = Metrics()
        self.dispatch = Dispatch(settings, self.metrics)
        longest = settings.max_length or MAX_LENGTH
        self.models = replace(models, context=min(models.context, longest))
        self._settings = settings
        self._keys = tuple(keys)
        # Long texts take long to read, so a thread does it, with a tokenizer of its own: a
        # tokenizer must not be used by two threads at once.
        self._reading = replace(self.models, template=deepcopy(models.template))
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {"api_path": self.api_path}  # all that the worker's process needs

    @property
    @override
    def stream(self) -> bool:
        return True

    @override
    def pre_setup(self, lit_api: LitAPI) -> None:
        self.add_endpoint(CHAT, self.chat, ["POST"])
        self.add_endpoint(TEXT, self.text, ["POST"])
        self.add_endpoint(SCORE, self.score, ["POST"])
        self.add_endpoint(MODELS, self.list_models, ["GET"])
        self.add_endpoint(MODELS + "/{name}", self.one_model, ["GET"])
        self.add_endpoint(LIVE, self.live, ["GET"])
        self.add_endpoint(READY, self.ready, ["GET"])
        self.add_endpoint(METRICS, self.numbers, ["GET"])
        self.add_endpoint(OPENAPI, self.document, ["GET"])

    # -- endpoints -----------------------------------------------------------------------------

    async def list_models(self, request: Request) -> Response:
        """The names that requests may use."""
        self.require_allowed(request)
        data = [self._model(name) for name in self._names]
        return JSONResponse({"object": "list", "data": data})

    async def one_model(self, request: Request, name: str) -> Response:
        """One of them."""
        self.require_allowed(request)
        require_known(name, self._names, "is served")
        return JSONResponse(self._model(name))

    async def live(self, request: Request) -> Response:
        """That this process answers."""
        return JSONResponse({"status": "live"})

    async def ready(self, request: Request) -> Response:
        """Whether answers are given now."""
        state = self.dispatch.state
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    async def numbers(self, request: Request) -> Response:
        """What Prometheus reads."""
        self.require_allowed(request)
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def document(self, request: Request) -> Response:
        """The OpenAPI document."""
        self.require_allowed(request)
        return JSONResponse(openapi_document(self.models))

    async def chat(self, request: Request) -> Response:
        """Answers to a conversation, whole or as a stream of events."""
        body, entries = await self._enter(request, ChatRequest, chat_entries)
        texts = [TextStream(self.models.template, body.stops) for _ in entries]
        answers = Answers(self.dispatch, entries, texts, request.state.arrived)
        return await self._reply(request, body, answers, ChatReply(body.model, self._named))

    async def text(self, request: Request) -> Response:
        """Texts gone on with, whole or as a stream of events."""
        body, entries = await self._enter(request, TextRequest, text_entries)
        texts = [TextStream(self.models.template, body.stops, trim=False) for _ in entries]
        answers = Answers(self.dispatch, entries, texts, request.state.arrived)
        return await self._reply(request, body, answers, TextReply(body.model, self._named))

    async def score(self, request: Request) -> Response:
        """The reward model's normalised score of every answer."""
        _, order = await self._enter(request, ScoreRequest, score_order)
        scores = await unless_left(request, self.dispatch.score(order))
        used = usage(sum(len(tokens) for tokens, _ in order.rows), 0)
        return JSONResponse({"model": order.role, "scores": scores, "usage": used})

    # -- what they share -----------------------------------------------------------------------

    def require_allowed(self, request: Request) -> None:
        """Refuse who is not trusted, or has no key.

        Raises:
            ApiError: 403 or 401.
        """
        self.require_trusted(request)
        require_key(request, self._keys)

    def require_trusted(self, request: Request) -> None:
        """Refuse what another site's page may have sent.

        Raises:
            ApiError: 403.
        """
        require_trusted(request, self._settings)

    async def _enter(
        self, request: Request, kind: type[Body], reading: Callable[[Body, ServedModels], T]
    ) -> tuple[Body, T]:
        """The request's body and the order it comes to, if there is room for it."""
        request.state.arrived = time.monotonic()
        self.require_allowed(request)
        content = await read_body(request)
        with self.dispatch.door():
            body = parsed(kind, content)
            loop = asyncio.get_running_loop()
            order = await loop.run_in_executor(self._reader, reading, body, self._reading)
        return body, order

    async def _reply(
        self, request: Request, body: Generation, answers: Answers, reply: Reply
    ) -> Response:
        if not body.stream:
            return JSONResponse(await unless_left(request, answers.whole(reply)))
        events = answers.events(reply, with_usage=body.with_usage)
        # Until the first token all can be told by a status; and a generator that has begun is
        # closed with whoever holds it, so that its places are free again.
        first = await unless_left(request, anext(events))
        return StreamingResponse(
            _stream(first, events),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return (*self.models.policies, *self.models.reward_models)

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.started,
            "owned_by": "rlhf_forge",
        }

    def _named(self, token: int) -> str:
        text = self.models.template.tokenizer.decode([token])
        assert isinstance(text, str)
        return text


async def _stream(first: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    """All events, the first one taken already; a fault is an event too, and the last one."""
    yield first
    try:
        async for one in events:
            yield one
    except ApiError as error:
        yield event(error.body())
        return
    yield DONE
