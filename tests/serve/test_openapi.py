"""The OpenAPI document says what is answered."""

import json

from rlhf_forge.serve.openapi import BODIES, openapi_document
from rlhf_forge.serve.routes import OPENAPI, PATHS


def test_every_address_is_described_and_no_other() -> None:
    described = set(openapi_document()["paths"])
    assert described == {*PATHS, "/v1/models/{name}"} - {OPENAPI}


def test_bodies_have_the_fields_that_are_read_and_take_no_others() -> None:
    schemas = openapi_document()["components"]["schemas"]
    for model, _ in BODIES.values():
        schema = schemas[model.__name__]
        assert set(schema["properties"]) == set(model.model_fields)
        assert schema["additionalProperties"] is False


def test_every_reference_leads_somewhere() -> None:
    document = openapi_document()
    for part in json.dumps(document).split('"#/components/schemas/')[1:]:
        assert part.partition('"')[0] in document["components"]["schemas"]
