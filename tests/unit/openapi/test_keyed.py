"""Operations of routes that heed idempotency keys say so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from openapi_spec_validator import OpenAPIV31SpecValidator

from kernel.openapi.together import merged
from kernel.routing.platform import ROUTES

Json = dict[str, Any]
PATH = "/api/v1/inventory/items"
NO_OWN = b'{"openapi":"3.1.0","info":{},"paths":{}}'
OWN_KEY = {"name": "idempotency-key", "in": "header", "schema": {"type": "integer"}}


def operations(idempotency: str | None) -> dict[str, Json]:
    """Those of a path, by method, when its route's rows say `idempotency`."""
    answers = {
        "201": {"description": "made", "headers": {"X": {"schema": {"type": "string"}}}},
        "409": {"description": "the service's own"},
        "404": {"$ref": "#/components/responses/None"},
    }
    given = {
        "openapi": "3.1.0",
        "info": {"title": "A service", "version": "7"},
        "paths": {
            PATH: {
                "parameters": [{"$ref": "#/components/parameters/Key"}],
                "get": {"responses": answers},
                "post": {"parameters": [OWN_KEY], "responses": answers},
                "patch": {"responses": answers},
            }
        },
        "components": {
            "parameters": {"Key": {**OWN_KEY, "name": "Idempotency-Key"}},
            "responses": {"None": {"description": "none"}},
        },
    }
    rows = tuple(
        replace(row, idempotency=idempotency) if row.service == "inventory" else row for row in ROUTES
    )
    body, _ = merged(NO_OWN, {"inventory": msgspec.json.encode(given)}, rows)
    document: Json = msgspec.json.decode(body)
    assert not list(OpenAPIV31SpecValidator(document).iter_errors())
    found: dict[str, Json] = document["paths"][PATH]
    return found


@pytest.mark.parametrize("demand", ["optional", "required"])
def test_posts_and_patches_take_a_key_and_tell_what_becomes_of_it(demand: str) -> None:
    found = operations(demand)
    for method in ("post", "patch"):
        (parameter,) = found[method]["parameters"]
        assert parameter["name"] == "Idempotency-Key"
        assert parameter["schema"]["type"] == "string"
        assert parameter.get("required", False) is (demand == "required")
        responses = found[method]["responses"]
        assert set(responses) == {"201", "404", "409", "400", "422", "503"}
        assert responses["409"]["description"] == "the service's own"
        assert set(responses["201"]["headers"]) == {"X", "Idempotent-Replayed"}
        codes = {
            code
            for status in ("400", "422", "503")
            for code in responses[status]["content"]["application/problem+json"]["schema"]["properties"][
                "code"
            ]["enum"]
        }
        assert ("idempotency-key-required" in codes) is (demand == "required")
        assert {"idempotency-key-invalid", "idempotency-mismatch", "idempotency-unavailable"} <= codes


def test_others_say_what_the_service_says() -> None:
    for found in (operations("optional")["get"], operations(None)["post"]):
        assert [each.get("$ref") or each["name"] for each in found["parameters"]] in (
            ["#/components/parameters/Key"],
            ["#/components/parameters/Key", "idempotency-key"],
        )
        assert set(found["responses"]) == {"201", "404", "409"}
        assert set(found["responses"]["201"]["headers"]) == {"X"}
