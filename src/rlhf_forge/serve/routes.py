"""The HTTP side: requests checked and made into jobs, tokens and scores made into replies."""

import asyncio
import json
import os
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse
from litserve import LitAPI
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus, ResponseBufferItem
from starlette.exceptions import HTTPException
from typing_extensions import override

from rlhf_forge.data.records import BadRecord
from rlhf_forge.generation.decode import Request
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.serve.errors import ApiError, parsed
from rlhf_forge.serve.models import ServedModels
from rlhf_forge.serve.schemas import ChatRequest, Reply, ScoreRequest, conversation, usage
from rlhf_forge.serve.text_stream import TextStream
from rlhf_forge.serve.trust import require_trusted
from rlhf_forge.serve.worker import ChatJob, ScoreJob

CHAT = "/v1/chat/completions"
# An answer's length where the request sets none: in a queue, one answer holds up all others.
DEFAULT_MAX_TOKENS = 512


class Routes(LitSpec):  # type: ignore[misc]  # litserve has no types
    """Several endpoints in front of one worker; LitServe gives each LitAPI its own.

    Args:
        models: What can be asked for.
        host: What the server binds to.
    """

    def __init__(self, models: ServedModels, host: str) -> None:
        super().__init__()
        self.api_path = CHAT
        self.started = int(time.time())
        self._models: ServedModels | None = models
        self._host = host

    @override
    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | {"_models": None}

    @property
    @override
    def stream(self) -> bool:
        return True

    @override
    def pre_setup(self, lit_api: LitAPI) -> None:
        self.add_endpoint(CHAT, self.chat, ["POST"])
        self.add_endpoint("/v1/score", self.score, ["POST"])
        self.add_endpoint("/v1/models", self.list_models, ["GET"])

    @property
    def models(self) -> ServedModels:
        """What can be asked for; not known in the worker's process."""
        assert self._models is not None
        return self._models

    # -- endpoints -----------------------------------------------------------------------------

    async def list_models(self, request: HttpRequest) -> Response:
        """The names that requests may use."""
        require_trusted(request, self._host)
        names = (*self.models.policies, *self.models.reward_models)
        entry = {"object": "model", "created": self.started, "owned_by": "rlhf_forge"}
        return JSONResponse({"object": "list", "data": [{"id": name} | entry for name in names]})

    async def chat(self, request: HttpRequest) -> Response:
        """One answer to a conversation, whole or as a stream of events."""
        require_trusted(request, self._host)
        body = parsed(ChatRequest, await request.body())
        job = chat_job(body, self.models)
        reply = Reply(uuid.uuid4().hex, int(time.time()), body.model)
        if not body.stream:
            return JSONResponse(await self._whole(job, reply))
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(
            self._events(job, reply, with_usage=with_usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    async def score(self, request: HttpRequest) -> Response:
        """The reward model's normalised score of every answer."""
        require_trusted(request, self._host)
        job = score_job(parsed(ScoreRequest, await request.body()), self.models)
        scores = [score async for score in self._results(job)]
        used = usage(sum(len(tokens) for tokens, _ in job.rows), 0)
        return JSONResponse({"model": job.role, "scores": scores, "usage": used})

    # -- between here and the worker -----------------------------------------------------------

    async def _whole(self, job: ChatJob, reply: Reply) -> dict[str, Any]:
        tokens = [token async for token in self._results(job)]
        text = self.models.template.decode(tokens)
        return reply.whole(text, self._why_ended(tokens), self._used(job, tokens))

    async def _events(self, job: ChatJob, reply: Reply, *, with_usage: bool) -> AsyncIterator[str]:
        text = TextStream(self.models.template)
        yield _event(reply.chunk({"role": "assistant", "content": ""}))
        try:
            async for token in self._results(job):
                if piece := text.push(token):
                    yield _event(reply.chunk({"content": piece}))
        except ApiError as error:
            yield _event(error.body())
            return
        if piece := text.rest():
            yield _event(reply.chunk({"content": piece}))
        yield _event(reply.chunk({}, self._why_ended(text.tokens)))
        if with_usage:
            yield _event(reply.usage_chunk(self._used(job, text.tokens)))
        yield "data: [DONE]\n\n"

    async def _results(self, job: ChatJob | ScoreJob) -> AsyncIterator[Any]:
        """What the worker makes of ``job``, as it comes."""
        uid = uuid.uuid4().hex
        item = ResponseBufferItem(event=asyncio.Event(), response_queue=deque())
        self.response_buffer[uid] = item
        message = (self.response_queue_id, uid, time.monotonic(), job)
        try:
            # A call to LitServe's manager process: it must not hold up the other requests.
            await asyncio.to_thread(self.request_queue.put, message)
            results = self.data_streamer(item.response_queue, item.event, send_status=True)
            async for data, status in results:
                if status == LitAPIStatus.ERROR:
                    raise _failure(data)
                yield data
        finally:
            self.response_buffer.pop(uid, None)

    def _why_ended(self, tokens: list[int]) -> str:
        return "stop" if tokens[-1] in self.models.template.eos_ids else "length"

    @staticmethod
    def _used(job: ChatJob, tokens: list[int]) -> dict[str, int]:
        return usage(len(job.request.prompt), len(tokens))


def chat_job(body: ChatRequest, models: ServedModels) -> ChatJob:
    """The tokens and the sampling that a request asks for.

    Raises:
        ApiError: If the model is not served, or the answer would not fit the context.
    """
    _require_known(body.model, models.policies, "gives answers")
    try:
        prompt = models.template.prompt(conversation(body.messages))
    except BadRecord as error:
        raise ApiError(400, str(error), code="invalid_value", param="messages") from None
    room = models.context - len(prompt)
    limit = body.limit or max(1, min(DEFAULT_MAX_TOKENS, room))
    if limit > room:
        raise _too_long(models.context, f"{len(prompt)} in the messages and {limit} to generate")
    sampling = Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        max_new_tokens=limit,
    )
    return ChatJob(Request(prompt, body.model, (random_key(body.seed),)), sampling)


def score_job(body: ScoreRequest, models: ServedModels) -> ScoreJob:
    """The tokens of the answers to score.

    Raises:
        ApiError: If the model is not served or not told, or an answer does not fit the context.
    """
    name = body.model
    if name is None:
        if len(models.reward_models) > 1:
            names = ", ".join(models.reward_models)
            raise ApiError(400, f"model: say which: {names}", code="invalid_value", param="model")
        name = models.reward_models[0] if models.reward_models else "reward"
    _require_known(name, models.reward_models, "gives scores")
    try:
        turns = body.conversations()
        rows = [models.template.answered(turn[:-1], turn[-1:]) for turn in turns]
    except BadRecord as error:
        raise ApiError(400, str(error), code="invalid_value", param="messages") from None
    longest = max(len(tokens) for tokens, _ in rows)
    if longest > models.context:
        raise _too_long(models.context, f"{longest} in an answer with its prompt")
    return ScoreJob(name, rows)


def random_key(seed: int | None) -> int:
    """What a response's randomness is a function of; another one each time without a seed."""
    return int.from_bytes(os.urandom(8)) if seed is None else seed % 2**64


def _require_known(name: str, known: tuple[str, ...], does: str) -> None:
    if name not in known:
        what = ", ".join(known) or "none here"
        message = f"no model {name!r} that {does}; such models: {what}"
        raise ApiError(404, message, code="model_not_found", param="model")


def _too_long(context: int, counts: str) -> ApiError:
    message = f"the context holds {context} tokens, but there are {counts}"
    return ApiError(400, message, code="context_length_exceeded", param="messages")


def _failure(data: Any) -> ApiError:
    """What is told of a fault in the worker; its log tells the rest."""
    if isinstance(data, HTTPException) and data.status_code == 504:
        return ApiError(504, "the request waited too long for its turn", code="timeout")
    return ApiError(500, "the server failed; see its log", code="internal_error")


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
