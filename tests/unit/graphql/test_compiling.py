"""Documents become schemas as somebody who writes GraphQL would have them; nothing in a document breaks more than itself."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from graphql import validate_schema
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.graphql.maker import modelled
from kernel.graphql.model import Model, ServicePart
from kernel.graphql.naming import ServiceNames, camel, enum_value, field_name, words
from kernel.graphql.requests import Invalid, sub_request
from kernel.graphql.schema import built, text
from kernel.routing.platform import ROUTES

Json = dict[str, Any]
PATH = "/api/v1/inventory/things"


def document(schema: Json, schemas: Json | None = None, version: str = "3.1.0", **operation: Any) -> Json:
    """One GET that answers with `schema`."""
    content = {"application/json": {"schema": schema}}
    got = {
        "operationId": "listThings",
        "responses": {"200": {"description": "", "content": content}},
        **operation,
    }
    return {
        "openapi": version,
        "info": {},
        "paths": {PATH: {"get": got}},
        "components": {"schemas": schemas or {}},
    }


def model(given: Json, service: str = "inventory") -> Model:
    return modelled({service: msgspec.json.encode(given)}, ROUTES)


def part(given: Json) -> ServicePart:
    (found,) = model(given).services
    return found


def printed(given: Json) -> str:
    made = built(model(given))
    assert validate_schema(made.schema) == []
    return text(made.schema)


def thing(**properties: Any) -> Json:
    return {"type": "object", "properties": properties}


FIELDS: list[tuple[str, Any, str]] = [
    ("name", {"type": "string"}, "String"),
    ("thing_id", {"type": "string"}, "ID"),
    ("paid", {"type": "boolean"}, "Boolean"),
    ("count", {"type": "integer"}, "Int"),
    ("count", {"type": "integer", "format": "int64"}, "Long"),
    ("count", {"type": "integer", "format": "int64", "maximum": 10}, "Int"),
    ("count", {"type": "integer", "maximum": 10**12}, "Long"),
    ("price", {"type": "number"}, "Float"),
    ("day", {"type": "string", "format": "date"}, "Date"),
    ("at", {"type": "string", "format": "date-time"}, "DateTime"),
    ("tags", {"type": "array", "items": {"type": "string"}}, "[String!]"),
    ("tags", {"type": "array", "items": {"type": ["string", "null"]}}, "[String]"),
    ("any", {}, "JSON"),
    ("any", True, "JSON"),
    ("map", {"type": "object", "additionalProperties": {"type": "string"}}, "JSON"),
    ("either", {"oneOf": [{"type": "string"}, {"type": "integer"}]}, "JSON"),
    ("either", {"type": ["string", "integer"]}, "JSON"),
    ("maybe", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "Int"),
    ("kind", {"type": "string", "enum": ["a b", "c"]}, "InventoryThingKind"),
    ("kind", {"type": "string", "enum": ["a", "A"]}, "String"),
    ("kind", {"type": "integer", "enum": [1, 2]}, "Int"),
    ("inner", thing(x={"type": "string"}), "InventoryThingInner"),
    ("self", {"$ref": "#/components/schemas/Thing"}, "InventoryThing"),
    ("list", {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}, "[InventoryThing!]"),
    (
        "both",
        {"allOf": [{"$ref": "#/components/schemas/Other"}, thing(more={"type": "string"})]},
        "InventoryThingBoth",
    ),
    ("same", {"allOf": [{"$ref": "#/components/schemas/Other"}], "description": "It"}, "InventoryOther"),
]


@pytest.mark.parametrize(("name", "schema", "kind"), FIELDS)
def test_a_field_by_its_schema(name: str, schema: Any, kind: str) -> None:
    schemas = {"Thing": {**thing(**{name: schema}), "required": []}, "Other": thing(y={"type": "integer"})}
    assert f"\n  {field_name(name)}: {kind}\n" in printed(
        document({"$ref": "#/components/schemas/Thing"}, schemas)
    )
    if "JSON" not in kind and name != "maybe":
        schemas["Thing"]["required"] = [name]
        assert f"\n  {field_name(name)}: {kind}!\n" in printed(
            document({"$ref": "#/components/schemas/Thing"}, schemas)
        )


def test_a_document_of_3_0_says_the_same() -> None:
    old = thing(a={"type": "string", "nullable": True}, b={"type": "string"})
    shown = printed(document({**old, "required": ["a", "b"]}, version="3.0.3"))
    assert "\n  a: String\n" in shown
    assert "\n  b: String!\n" in shown


def test_inputs_have_what_is_sent_and_outputs_what_comes() -> None:
    both = {
        "Thing": {
            **thing(
                id={"type": "string", "readOnly": True},
                secret={"type": "string", "writeOnly": True},
                size={"type": "integer", "default": 3},
            ),
            "required": ["id", "secret", "size"],
        }
    }
    given = document({"$ref": "#/components/schemas/Thing"}, both)
    reference = {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}}
    given["paths"][PATH]["post"] = {
        "requestBody": {"required": True, "content": reference},
        "responses": {"204": {"description": ""}},
    }
    shown = printed(given)
    assert "type InventoryThing {\n  id: ID!\n  size: Int!\n}" in shown
    assert "input InventoryThingInput {\n  secret: String!\n  size: Int\n}" in shown
    assert "createInventoryThing(input: InventoryThingInput!): Boolean" in shown


@pytest.mark.parametrize(
    "broken",
    [
        {"A": {"allOf": [{"$ref": "#/components/schemas/A"}]}},
        {"A": {"anyOf": [{"$ref": "#/components/schemas/A"}, {"type": "null"}]}},
        {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}},
        {
            "A": thing(
                **{"__typename": {"type": "string"}, "": {"type": "string"}, "日本": {"type": "string"}}
            )
        },
        {"A": thing(**{"a b": {"type": "string"}, "a_b": {"type": "string"}, "aB": {"type": "string"}})},
        {"A": {**thing(a={"$ref": "#/components/schemas/A"}), "required": ["a"]}},
        {"A": thing(**{f"p{n}": thing(x={"type": "string"}) for n in range(300)})},
    ],
)
def test_what_is_odd_in_a_document_makes_no_odd_schema(broken: Json) -> None:
    given = document({"$ref": "#/components/schemas/A"}, broken)
    given["paths"][PATH]["post"] = {
        "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}},
        "responses": {"200": {"description": "", "content": {"application/json": {}}}},
    }
    found = part(given)
    assert found.operations or found.reason or found.left_out
    printed(given)


def test_names_do_not_depend_on_the_order_or_on_others() -> None:
    names = ServiceNames("inventory")
    assert names.operation("GET", PATH, "list_things_api_v1_inventory_things_get")[0] == "inventoryThings"
    assert names.operation("GET", PATH + "/{id}", "getInventoryThingsId")[0] == "inventoryThing"
    assert names.operation("DELETE", PATH + "/{id}", "")[0] == "deleteInventoryThing"
    assert names.operation("POST", PATH + "/{id}/adjust", "")[0] == "adjustInventoryThing"
    assert names.operation("POST", PATH, "inventory_bulk_load")[0] == "inventoryBulkLoad"
    assert ServiceNames("auth").operation("POST", "/api/v1/auth/login", "login")[0] == "authLogin"
    assert ServiceNames("orders").type("OrderLine") == "OrderLine"
    assert ServiceNames("sales").type("OrderLine") == "SalesOrderLine"
    assert ServiceNames("ai-insights").type("http_error") == "AiInsightsHttpError"
    assert words("HTTPValidationError año_2") == ["http", "validation", "error", "ano", "2"]
    assert (camel(["2", "x"]), enum_value("true"), enum_value("-")) == ("_2X", "TRUE_", "")


def test_two_that_would_be_called_alike_keep_their_own_words() -> None:
    given = document({"type": "string"})
    given["paths"]["/api/v1/inventory/more"] = {
        "get": {**given["paths"][PATH]["get"], "operationId": "getThings"}
    }
    assert {each.name for each in part(given).operations} == {"listInventoryThings", "getInventoryThings"}


def test_what_cannot_be_asked_here_is_left_out_and_said() -> None:
    given = document({"type": "string"})
    upload = {"content": {"multipart/form-data": {"schema": {}}}, "required": True}
    given["paths"][PATH]["post"] = {"requestBody": upload, "responses": {"204": {"description": ""}}}
    given["paths"]["/api/v1/inventory/label"] = {
        "get": {"responses": {"200": {"description": "", "content": {"application/pdf": {}}}}}
    }
    found = part(given)
    assert [each.name for each in found.operations] == ["inventoryThings"]
    assert len(found.left_out) == 2


def test_parameters_are_written_as_the_document_says() -> None:
    listed = {"type": "array", "items": {"type": "string"}}
    given = document(
        {"type": "string"},
        parameters=[
            {"name": "many", "in": "query", "schema": listed},
            {"name": "few", "in": "query", "explode": False, "schema": listed},
            {"name": "pipes", "in": "query", "style": "pipeDelimited", "explode": False, "schema": listed},
            {"name": "deep", "in": "query", "style": "deepObject", "schema": {"type": "object"}},
            {"name": "json", "in": "query", "content": {"application/json": {"schema": {"type": "object"}}}},
            {"name": "X-Flavour", "in": "header", "schema": {"type": "string"}},
            {"name": "X-Tenant-ID", "in": "header", "schema": {"type": "string"}},
            {"name": "X-Evil\r\nX-User-ID", "in": "header", "schema": {"type": "string"}},
        ],
    )
    (operation,) = part(given).operations
    assert [each.name for each in operation.arguments] == ["many", "few", "pipes", "deep", "json", "xFlavour"]
    asked = sub_request(
        operation,
        {
            "many": ["a", "b&c"],
            "few": ["a", "b"],
            "pipes": ["a", "b"],
            "deep": {"k": 1},
            "json": {"k": [1]},
            "xFlavour": "sour",
        },
        None,
        None,
    )
    assert asked.query == b"many=a&many=b%26c&few=a,b&pipes=a%7Cb&deep%5Bk%5D=1&json=%7B%22k%22%3A%5B1%5D%7D"
    assert asked.headers == ((b"x-flavour", b"sour"),)
    with pytest.raises(Invalid):
        sub_request(operation, {"xFlavour": "a\r\nx-user-id: b"}, None, None)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40))
def test_any_argument_stays_in_its_place(value: str) -> None:
    parameter = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    given = document(
        {"type": "string"}, parameters=[{"name": "q", "in": "query", "schema": {"type": "string"}}]
    )
    given["paths"] = {PATH + "/{id}": {"get": {**given["paths"][PATH]["get"]}}}
    given["paths"][PATH + "/{id}"]["get"]["parameters"] += [parameter]
    (operation,) = part(given).operations
    try:
        asked = sub_request(operation, {"id": value, "q": value}, None, None)
    except Invalid:
        assert not value
        return
    assert asked.path.startswith(PATH.encode() + b"/")
    assert asked.path.count(b"/") == PATH.count("/") + 1
    assert asked.path.isascii()
    assert not set(asked.path) & set(b"?#\r\n ")
    assert asked.query.startswith(b"q=")
    assert not set(asked.query) & set(b"&#\r\n ")
