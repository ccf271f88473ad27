"""The OpenAPI document of the server's API, from the very models that read the requests."""

from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rlhf_forge.serve.schemas import ChatRequest, ScoreRequest, TextRequest

BODIES: dict[str, tuple[type[BaseModel], str]] = {
    "/v1/chat/completions": (ChatRequest, "Answers to a conversation"),
    "/v1/completions": (TextRequest, "Texts gone on with"),
    "/v1/score": (ScoreRequest, "Scores of answers"),
}
ASKED = {
    "/v1/models": "The models that are served",
    "/health/live": "Whether the process answers",
    "/health/ready": "Whether answers are given",
    "/metrics": "Numbers for Prometheus",
}
PLAIN = "text/plain"
REFUSALS = ("400", "401", "403", "404", "408", "413", "415", "422", "429", "500", "503", "504")
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


def openapi_document() -> dict[str, Any]:
    """The document, as JSON is made of.

    What no schema says (a prompt must fit the context, a model must be served) is answered with 400
    and 404, in the shape of every error here.
    """
    models = [(model, "validation") for model, _ in BODIES.values()]
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    posts = {
        path: {"post": _post(model.__name__, summary)} for path, (model, summary) in BODIES.items()
    }
    gets = {path: {"get": _get(path, summary)} for path, summary in ASKED.items()}
    gets["/v1/models/{name}"] = {"get": _get("", "One model") | {"parameters": [_name()]}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "rlhf_forge", "version": version("rlhf_forge")},
        "paths": posts | gets,
        "components": {
            "schemas": schemas["$defs"] | {"Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _post(name: str, summary: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    done: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if name != "ScoreRequest":
        done["text/event-stream"] = {}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "Done", "content": done}, **_refused()},
    }


def _get(path: str, summary: str) -> dict[str, Any]:
    kind = PLAIN if path == "/metrics" else "application/json"
    found: dict[str, Any] = {"200": {"description": "Done", "content": {kind: {}}}, **_refused()}
    if path == "/health/ready":
        found["503"] = {"description": "Not now", "content": {"application/json": {}}}
    return {"summary": summary, "responses": found}


def _name() -> dict[str, Any]:
    return {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


def _refused() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": "Refused", "content": content} for status in REFUSALS}
