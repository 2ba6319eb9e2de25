"""The OpenAPI document that is made of descriptors."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate

from kernel.transcoding.descriptors import Descriptors
from kernel.transcoding.openapi import document
from tests.support.grpc_service import DESCRIPTORS

API = "/api/v1/ovens"


@pytest.fixture(scope="module")
def made() -> Any:
    return msgspec.json.decode(document(Descriptors(DESCRIPTORS.read_bytes()), "ovens"))


def test_it_is_a_sound_document(made: Any) -> None:
    validate(made)
    assert made["openapi"] == "3.1.0"
    assert made["tags"] == [{"name": "Ovens", "description": "Everything about ovens."}]


def test_rules_are_operations(made: Any) -> None:
    found = {
        (path, verb): each["operationId"]
        for path, item in made["paths"].items()
        for verb, each in item.items()
    }
    assert found == {
        (f"{API}/{{oven_id}}", "get"): "GetOven",
        (f"{API}/by-id/{{oven_id}}", "get"): "GetOven2",
        (API, "get"): "ListOvens",
        (f"{API}/list/only", "get"): "ListOnly",
        (API, "post"): "CreateOven",
        (f"{API}/{{oven_id}}", "patch"): "UpdateOven",
        (f"{API}/{{oven_id}}", "delete"): "DeleteOven",
        (f"{API}/{{oven_id}}:heat", "post"): "Heat",
        (f"{API}/doors/{{name}}/hinges/{{name_2}}", "get"): "GetPart",
        (f"{API}/manual/{{path}}", "get"): "GetManual",
        (f"{API}/manual/{{path}}", "put"): "PutManual",
        (f"{API}/pages/{{path}}", "get"): "ReadManual",
        (f"{API}/{{oven_id}}/readings:watch", "get"): "Watch",
    }


def test_comments_are_said(made: Any) -> None:
    get = made["paths"][f"{API}/{{oven_id}}"]["get"]
    assert get["summary"] == "Get one oven."
    assert get["description"] == "It says what it was told in metadata in `labels`."
    schemas = made["components"]["schemas"]
    assert schemas["Oven"]["description"] == "An oven of a bakery."
    assert schemas["Oven"]["properties"]["ovenId"] == {
        "type": "string",
        "description": "Its id in the bakery.",
    }
    assert schemas["Fuel"]["description"] == "What an oven is heated by.\n- `ELECTRIC`: Mains."


def test_parameters_are_what_the_path_and_the_body_leave(made: Any) -> None:
    def named(path: str, verb: str, place: str) -> list[str]:
        found = made["paths"][path][verb].get("parameters", ())
        return [each["name"] for each in found if each["in"] == place]

    asked = named(API, "get", "query")
    assert asked[:8] == [
        "pageSize", "pageToken", "fuels", "maker.name", "maker.country.code", "litAfter", "lit", "batches",
    ]  # fmt: skip
    assert "like.trays" not in asked
    assert "like.every" in asked
    assert named(f"{API}/{{oven_id}}", "patch", "query") == ["updateMask", "validateOnly"]
    assert named(f"{API}/{{oven_id}}:heat", "post", "query") == []
    assert named(f"{API}/doors/{{name}}/hinges/{{name_2}}", "get", "path") == ["name", "name_2"]
    assert named(f"{API}/doors/{{name}}/hinges/{{name_2}}", "get", "query") == ["view"]


def test_values_are_what_json_has(made: Any) -> None:
    properties = made["components"]["schemas"]["Oven"]["properties"]
    assert {
        name: properties[name]
        for name in ("batches", "photo", "litAt", "trays", "shelf", "labels", "settings")
    } == {
        "batches": {"type": "string", "format": "int64"},
        "photo": {"type": "string", "contentEncoding": "base64"},
        "litAt": {"type": "string", "format": "date-time"},
        "trays": {"type": "object", "additionalProperties": {"type": "integer", "format": "int32"}},
        "shelf": {"type": ["integer", "null"], "format": "int32"},
        "labels": {"type": "array", "items": {"type": "string"}},
        "settings": {"type": "object", "additionalProperties": True},
    }
    stream = made["paths"][f"{API}/{{oven_id}}/readings:watch"]["get"]["responses"]["200"]["content"]
    assert stream["application/x-ndjson"]["schema"] == {"$ref": "#/components/schemas/Reading"}
    assert list(made["paths"][f"{API}/pages/{{path}}"]["get"]["responses"]["200"]["content"]) == ["*/*"]
    assert "*/*" in made["paths"][f"{API}/manual/{{path}}"]["put"]["requestBody"]["content"]
