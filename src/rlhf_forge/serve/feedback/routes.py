"""The feedback's HTTP side: votes in, the next pair and the statistics out."""

import asyncio
import random
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from rlhf_forge.errors import UserError
from rlhf_forge.serve.errors import ApiError, parsed
from rlhf_forge.serve.feedback.casting import Id, Name, vote_in
from rlhf_forge.serve.feedback.pairing import Offer, next_offer
from rlhf_forge.serve.feedback.store import FeedbackStore, Refused, Score
from rlhf_forge.serve.feedback.summary import summary
from rlhf_forge.serve.feedback.votes import person
from rlhf_forge.serve.http import read_body
from rlhf_forge.serve.schemas import Strict
from rlhf_forge.serve.trust import before_each

STATUS = {"unknown_vote": 404, "conflict": 409}


class ScoresOfVote(Strict):
    """Body of POST /v1/feedback/scores: what a reward model says of a vote's two answers."""

    vote: Id
    model: Name
    a: float
    b: float


class Person(Strict):
    """Body of POST /v1/feedback/next: for whom, and whether pairs of others are wanted."""

    annotator: Name = ""
    session: Name = ""
    shared: bool = False


def feedback_routes(
    store: FeedbackStore, artefacts: Mapping[str, str], admit: Callable[[Request], None]
) -> APIRouter:
    """The routes under /v1/feedback.

    Args:
        store: Where the votes lie.
        artefacts: Fingerprint of each model that is served here.
        admit: Raises `ApiError` for a request that is not to be answered.
    """
    router = APIRouter(prefix="/v1/feedback", dependencies=[before_each(admit)])
    rng = random.SystemRandom()

    @router.post("")
    async def cast(request: Request) -> Response:
        vote = vote_in(await read_body(request), artefacts)
        stored, is_new = await _stored(store.add, vote)
        told = {"id": stored.id, "created_at": stored.created_at, "flags": stored.flags}
        return JSONResponse(told, 201 if is_new else 200)

    @router.post("/scores")
    async def scores(request: Request) -> Response:
        body = parsed(ScoresOfVote, await read_body(request))
        await _stored(store.add_score, Score(**body.model_dump()))
        return JSONResponse({"vote": body.vote}, 201)

    @router.post("/next")
    async def following(request: Request) -> Response:
        body = parsed(Person, await read_body(request))
        who = person(body.annotator.strip(), body.session.strip())
        offer = next_offer(await _stored(store.votes), who, shared=body.shared, rng=rng)
        return JSONResponse({"offer": None if offer is None else _shown(offer)})

    @router.get("/statistics")
    async def statistics() -> Response:
        votes, scores = await _stored(store.votes), await _stored(store.scores)
        return JSONResponse(await asyncio.to_thread(summary, votes, scores))

    return router


def _shown(offer: Offer) -> dict[str, Any]:
    """What the page needs of an offer; not whose vote it was, nor what was chosen."""
    again = offer.again
    if again is None:
        return {"shown_left": offer.shown_left, "again": None}
    a, b = (side.model_dump() for side in again.sides)
    seen = {"pair": again.pair, "messages": again.messages, "a": a, "b": b}
    return {"shown_left": offer.shown_left, "again": seen}


async def _stored(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call the store in a thread; what goes wrong there becomes an answer.

    Raises:
        ApiError: If the store refuses, or its file cannot be used.
    """
    try:
        return await asyncio.to_thread(call, *arguments)
    except Refused as error:
        raise ApiError(STATUS[error.code], str(error), code=error.code) from None
    except (UserError, sqlite3.Error) as error:
        raise ApiError(503, f"the feedback is not stored: {error}", code="not_stored") from error
