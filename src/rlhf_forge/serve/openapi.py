"""The OpenAPI document of the server's API, from the very models that read the requests."""

from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rlhf_forge.serve.feedback.casting import KINDS
from rlhf_forge.serve.feedback.routes import Person, ScoresOfVote
from rlhf_forge.serve.models import ServedModels
from rlhf_forge.serve.schemas import ChatRequest, Generation, ScoreRequest, TextRequest

# Of each address: the models of its bodies, the statuses of success, and what it is for.
BODIES: dict[str, tuple[tuple[type[BaseModel], ...], tuple[str, ...], str]] = {
    "/v1/chat/completions": ((ChatRequest,), ("200",), "Answers to a conversation"),
    "/v1/completions": ((TextRequest,), ("200",), "Texts gone on with"),
    "/v1/score": ((ScoreRequest,), ("200",), "Scores of answers"),
    # 200: the vote was stored before.
    "/v1/feedback": (
        tuple(KINDS.values()),
        ("200", "201"),
        "Votes, thumbs, and taking them back",
    ),
    "/v1/feedback/scores": ((ScoresOfVote,), ("201",), "What a reward model says of a vote"),
    "/v1/feedback/next": ((Person,), ("200",), "The next pair to show"),
}
ASKED = {
    "/v1/feedback/statistics": "What the votes come to",
    "/v1/models": "The models that are served",
    "/health/live": "Whether the process answers",
    "/health/ready": "Whether answers are given",
    "/metrics": "Numbers for Prometheus",
}
PLAIN = "text/plain"
REFUSALS = (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503, 504)
NULLABLE = {"type": ["string", "null"]}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": NULLABLE,
                "code": {"type": "string"},
            },
        }
    },
}


def openapi_document(served: ServedModels) -> dict[str, Any]:
    """The document, as JSON is made of.

    What no schema says (a prompt must fit the context) is answered with 400, in the shape of every
    error here.

    Args:
        served: Whose names requests may give.
    """
    models = [(model, "validation") for bodies, _, _ in BODIES.values() for model in bodies]
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    posts = {path: {"post": _post(*told)} for path, told in BODIES.items()}
    gets = {path: {"get": _get(path, summary)} for path, summary in ASKED.items()}
    gets["/v1/models/{name}"] = {"get": _get("", "One model") | {"parameters": [_name(served)]}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "rlhf_forge", "version": version("rlhf_forge")},
        "paths": posts | gets,
        "components": {
            "schemas": _named(schemas["$defs"], served) | {"Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _named(schemas: dict[str, Any], served: ServedModels) -> dict[str, Any]:
    """The schemas, with the names that are served where a model is asked for."""
    for model in Generation.__subclasses__():
        schemas[model.__name__]["properties"]["model"]["enum"] = list(served.policies)
    scorer = schemas[ScoreRequest.__name__]["properties"]["model"]
    scorer["anyOf"][0]["enum"] = list(served.reward_models)
    return schemas


def _post(
    bodies: tuple[type[BaseModel], ...], statuses: tuple[str, ...], summary: str
) -> dict[str, Any]:
    references = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in bodies]
    schema = {"oneOf": references} if len(references) > 1 else references[0]
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if issubclass(bodies[0], Generation):
        content["text/event-stream"] = {}
    done = {"description": "Done", "content": content}
    responses = dict.fromkeys(statuses, done) | _refused()
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": responses,
    }


def _get(path: str, summary: str) -> dict[str, Any]:
    kind = PLAIN if path == "/metrics" else "application/json"
    found: dict[str, Any] = {"200": {"description": "Done", "content": {kind: {}}}, **_refused()}
    if path == "/health/ready":
        found["503"] = {"description": "Not now", "content": {"application/json": {}}}
    return {"summary": summary, "responses": found}


def _name(served: ServedModels) -> dict[str, Any]:
    names = [*served.policies, *served.reward_models]
    schema = {"type": "string", "enum": names}
    return {"name": "name", "in": "path", "required": True, "schema": schema}


def _refused() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {str(status): {"description": "Refused", "content": content} for status in REFUSALS}
