"""The OpenAPI document says what is answered."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from rlhf_forge.serve.app import build_server
from rlhf_forge.serve.models import ServedModels, open_models
from rlhf_forge.serve.openapi import BODIES, openapi_document
from rlhf_forge.serve.settings import Settings

API = ("/v1/", "/health/", "/metrics")


@pytest.fixture(scope="module")
def models(served_run: Path) -> ServedModels:
    return open_models([str(served_run)])


@pytest.fixture(scope="module")
def document(models: ServedModels) -> dict[str, Any]:
    return openapi_document(models)


def routes_of(app: FastAPI) -> Iterator[Any]:
    """All routes; newer versions of FastAPI keep those of an included router within it."""
    for route in app.routes:
        nested = getattr(route, "original_router", None)
        yield from [route] if nested is None else nested.routes


def test_every_address_is_described_and_no_other(
    models: ServedModels, document: dict[str, Any], tmp_path: Path
) -> None:
    settings = Settings(feedback=str(tmp_path / "feedback.sqlite"))
    app = build_server(models, settings, ()).app
    answered = {
        (route.path, method.lower())
        for route in routes_of(app)
        if route.path.startswith(API)
        for method in route.methods
    }
    described = {(path, method) for path, kinds in document["paths"].items() for method in kinds}
    assert described == answered


def test_bodies_have_the_fields_that_are_read_and_take_no_others(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for bodies, _, _ in BODIES.values():
        for model in bodies:
            schema = schemas[model.__name__]
            assert set(schema["properties"]) == set(model.model_fields)
            assert schema["additionalProperties"] is False


def test_the_names_that_are_served_are_the_names_that_may_be_asked(
    models: ServedModels, document: dict[str, Any]
) -> None:
    schemas = document["components"]["schemas"]
    for name in ("ChatRequest", "TextRequest"):
        assert schemas[name]["properties"]["model"]["enum"] == list(models.policies)
    scorer = schemas["ScoreRequest"]["properties"]["model"]["anyOf"][0]
    assert scorer["enum"] == list(models.reward_models) != []


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for part in json.dumps(document).split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in document["components"]["schemas"]
