"""Requests made into orders: the template rendered, the context checked, the randomness fixed."""

import os
import uuid

from rlhf_forge.data.records import BadRecord
from rlhf_forge.generation.engine import Entry, Request
from rlhf_forge.serve.errors import ApiError
from rlhf_forge.serve.jobs import Score
from rlhf_forge.serve.models import ServedModels
from rlhf_forge.serve.schemas import ChatRequest, ScoreRequest, TextRequest, conversation

# An answer's length where the request sets none.
DEFAULT_MAX_TOKENS = 512


def chat_entries(body: ChatRequest, models: ServedModels) -> list[Entry]:
    """The rows that answer a conversation, one for each of the ``n`` answers.

    Raises:
        ApiError: If the model is not served, or the answer would not fit the context.
    """
    require_known(body.model, models.policies, "gives answers")
    try:
        prompt = models.template.prompt(conversation(body.messages))
    except BadRecord as error:
        raise _unreadable(error, "messages") from None
    room = models.context - len(prompt)
    limit = body.limit or max(1, min(DEFAULT_MAX_TOKENS, room))
    _require_room(len(prompt), limit, models.context, "messages")
    sampling, seed, uid = body.sampling(limit), random_seed(body.seed), uuid.uuid4().hex
    return [
        Entry(f"{uid}-{index}", Request(prompt, body.model, (seed, index)), sampling, body.top)
        for index in range(body.n or 1)
    ]


def text_entries(body: TextRequest, models: ServedModels) -> list[Entry]:
    """The rows that go on with texts: ``n`` for each prompt, those of a prompt side by side.

    Raises:
        ApiError: If the model is not served, or a text would not fit the context.
    """
    require_known(body.model, models.policies, "gives answers")
    sampling, seed, uid = body.sampling(body.limit), random_seed(body.seed), uuid.uuid4().hex
    entries: list[Entry] = []
    for given in body.prompts:
        prompt = _tokens(given, models)
        _require_room(len(prompt), body.limit, models.context, "prompt")
        for _ in range(body.n or 1):
            request = Request(prompt, body.model, (seed, len(entries)))
            entries.append(Entry(f"{uid}-{len(entries)}", request, sampling, body.logprobs))
    return entries


def score_order(body: ScoreRequest, models: ServedModels) -> Score:
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
    require_known(name, models.reward_models, "gives scores")
    try:
        turns = body.conversations()
        rows = [models.template.answered(turn[:-1], turn[-1:]) for turn in turns]
    except BadRecord as error:
        raise _unreadable(error, "messages") from None
    longest = max(len(tokens) for tokens, _ in rows)
    if longest > models.context:
        raise _too_long(models.context, f"{longest} in an answer with its prompt", "messages")
    return Score(uuid.uuid4().hex, name, rows)


def random_seed(seed: int | None) -> int:
    """What the answers' randomness is a function of; another one each time without a seed."""
    return int.from_bytes(os.urandom(8)) if seed is None else seed % 2**64


def require_known(name: str, known: tuple[str, ...], does: str) -> None:
    """Refuse a model that is not served, or not for this.

    Raises:
        ApiError: 404, with the names that would do.
    """
    if name not in known:
        what = ", ".join(known) or "none here"
        message = f"no model {name!r} that {does}; such models: {what}"
        raise ApiError(404, message, code="model_not_found", param="model")


def _tokens(given: str | list[int], models: ServedModels) -> list[int]:
    if isinstance(given, list):
        vocabulary = len(models.template.tokenizer)
        if max(given) >= vocabulary:
            message = f"prompt: token ids must be below {vocabulary}, got {max(given)}"
            raise ApiError(400, message, code="invalid_value", param="prompt")
        return given
    try:
        tokens = models.template.plain(given)
    except BadRecord as error:
        raise _unreadable(error, "prompt") from None
    if not tokens:
        raise ApiError(400, "prompt: must not be empty", code="invalid_value", param="prompt")
    return tokens


def _require_room(prompt: int, limit: int, context: int, param: str) -> None:
    if prompt + limit > context:
        raise _too_long(context, f"{prompt} in the {param} and {limit} to generate", param)


def _too_long(context: int, counts: str, param: str) -> ApiError:
    message = f"the context holds {context} tokens, but there are {counts}"
    return ApiError(400, message, code="context_length_exceeded", param=param)


def _unreadable(error: BadRecord, param: str) -> ApiError:
    return ApiError(400, str(error), code="invalid_value", param=param)
