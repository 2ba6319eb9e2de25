"""Services' documents merged into the gateway's: valid whatever they are, and nothing in them mistaken for something else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from handlers import OPERATIONS
from kernel.openapi.own import own_document
from kernel.openapi.together import merged
from kernel.routing.catalog import RouteRow
from kernel.routing.platform import ROUTES

OWN = own_document(ROUTES, OPERATIONS)
NO_OWN = b'{"openapi":"3.1.0","info":{},"paths":{}}'
ITEMS = "/api/v1/inventory/items"
SALES = "/api/v1/sales/records"
Json = dict[str, Any]


def errors(document: Json) -> list[str]:
    return [str(error)[:500] for error in OpenAPIV31SpecValidator(document).iter_errors()]


def merge(own: bytes = NO_OWN, /, **found: Any) -> Json:
    """The valid result of merging documents by service (`_` for `-`); bytes and text go in as they are."""
    given = {
        name.replace("_", "-"): each if isinstance(each, (bytes, str)) else msgspec.json.encode(each)
        for name, each in found.items()
    }
    body, _ = merged(own, given, ROUTES)
    document: Json = msgspec.json.decode(body)
    assert errors(document) == []
    return document


def doc(paths: Json, version: str = "3.1.0", **components: Any) -> Json:
    info = {"title": "A service", "version": "7"}
    return {"openapi": version, "info": info, "paths": paths, "components": components}


def get(schema: Any = None, **more: Any) -> Json:
    content = {"application/json": {"schema": schema if schema is not None else {}}}
    return {"get": {"responses": {"200": {"description": "", "content": content}}, **more}}


def schema_of(document: Json, path: str, method: str = "get") -> Any:
    return document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]


def follow(document: Json, reference: str) -> Any:
    target: Any = document
    for part in reference.removeprefix("#/").split("/"):
        target = target[part.replace("~1", "/").replace("~0", "~")]
    return target


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


# --- the gateway's own -------------------------------------------------------------------------------------------


def test_the_gateways_own_endpoints_are_all_there_and_valid() -> None:
    document = merge(OWN)
    for row in ROUTES:
        if row.service is None:
            for method in row.methods or ():
                operation = document["paths"][row.pattern][method.lower()]
                ways: list[Json] = (
                    [{"bearer": []}, {"apiKey": []}] if row.key_scope(method) else [{"bearer": []}]
                )
                assert operation["security"] == ([] if row.public else ways)
    body = document["paths"]["/api/v1/geocode"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert follow(document, body["$ref"])["properties"]["query"]["maxLength"] == 300
    assert not [name for name in document["components"]["schemas"] if name.startswith("_") or "." in name]
    assert document["openapi"] == "3.1.0"
    assert document["servers"] == [{"url": "/"}]


# --- what is served ----------------------------------------------------------------------------------------------


def test_only_what_the_route_table_leads_to_the_service_is_taken() -> None:
    document = merge(
        inventory=doc(
            {
                ITEMS: {**get(), "trace": {}, "parameters": [], "summary": "Things"},
                "/health": get(),
                "/api/v1/sales/records": get(),
                "/api/v1/tenants/{tenant_id}/inventory/items": get(),
                "/internal/metrics": get(),
                "api/v1/inventory/x": get(),
                "/api/v1/alerts/stream": get(),
                "x-note": 1,
            }
        )
    )
    assert list(document["paths"]) == [ITEMS, "/api/v1/tenants/{tenant_id}/inventory/items"]
    assert list(document["paths"][ITEMS]) == ["get"]
    assert document["paths"][ITEMS]["get"]["summary"] == "Things"
    assert document["x-services"]["inventory"] == {
        "included": True, "title": "A service", "version": "7", "operations": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("servers", "path"),
    [
        ([{"url": "/api/v1/inventory"}], "/items"),
        ([{"url": "https://inventory.internal:8000/api/v1"}], "/inventory/items"),
        ([{"url": "{root}/v1/", "variables": {"root": {"default": "/api"}}}], "/inventory/items"),
        ([{"url": "/elsewhere"}], ITEMS),
        ([{"url": "http://[broken"}, "x", {"url": 3}, {"url": "/api/v1"}], "/inventory/items"),
        ("no list", ITEMS),
    ],
)
@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
def test_paths_are_below_what_servers_say_or_as_they_stand(servers: Any, path: str, version: str) -> None:
    document = merge(inventory={**doc({path: get()}, version), "servers": servers})
    assert list(document["paths"]) == [ITEMS]


def test_public_routes_need_no_token_and_others_keep_the_services_api_keys_beside_it() -> None:
    schemes = {
        "HTTPBearer": {"type": "http", "scheme": "bearer"},
        "login": {"type": "oauth2", "flows": {"password": {"tokenUrl": "x", "scopes": {}}}},
        "till": {"type": "apiKey", "in": "header", "name": "X-Till-Key", "description": "Of the till"},
        "bearer": {"type": "apiKey", "in": "query", "name": "key"},
    }
    login = {"post": {"responses": {"200": {"description": ""}}, "security": [{"HTTPBearer": []}]}}
    document = merge(
        auth=doc({"/api/v1/auth/login": login}, securitySchemes=schemes),
        pos={
            **doc(
                {
                    "/api/v1/pos/a": get(),
                    "/api/v1/pos/b": get(security=[{"login": ["x"]}]),
                    "/api/v1/pos/c": get(security=[]),
                    "/api/v1/pos/d": get(security=[{"bearer": []}, {"gone": []}]),
                },
                securitySchemes=schemes,
            ),
            "security": [{"HTTPBearer": [], "till": []}],
        },
    )
    paths = document["paths"]
    assert paths["/api/v1/auth/login"]["post"]["security"] == []
    assert paths["/api/v1/pos/a"]["get"]["security"] == [
        {"bearer": [], "till": []},
        {"apiKey": [], "till": []},
    ]
    assert paths["/api/v1/pos/a"]["get"]["x-api-key-scope"] == "pos:read"
    assert paths["/api/v1/pos/b"]["get"]["security"] == [{"bearer": []}, {"apiKey": []}]
    assert paths["/api/v1/pos/c"]["get"]["security"] == [{"bearer": []}, {"apiKey": []}]
    assert paths["/api/v1/pos/d"]["get"]["security"] == [
        {"bearer": [], "Posbearer": []},
        {"apiKey": [], "Posbearer": []},
        {"bearer": []},
        {"apiKey": []},
    ]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey", "till", "Posbearer"}


# --- 3.0 becomes 3.1 ---------------------------------------------------------------------------------------------


def test_the_words_of_3_0_become_those_of_3_1() -> None:
    old = {
        "type": "object",
        "nullable": True,
        "example": {"$ref": "mere data"},
        "properties": {
            "a": {
                "type": "integer",
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 9,
                "exclusiveMaximum": False,
            },
            "b": {"allOf": [ref("B")], "nullable": True},
            "c": {**ref("B"), "nullable": True, "description": "never counted"},
            "d": {"type": "string", "format": "byte"},
            "e": {"type": "string", "format": "binary"},
            "nullable": {"type": "string", "nullable": False},
            "example": {"type": "array", "items": {"type": "string", "nullable": True}},
            "$ref": {"type": "string"},
        },
    }
    document = merge(sales=doc({SALES: get(old)}, "3.0.1", schemas={"B": {"enum": ["x"], "type": "string"}}))
    assert schema_of(document, SALES) == {
        "type": ["object", "null"],
        "examples": [{"$ref": "mere data"}],
        "properties": {
            "a": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9},
            "b": {"anyOf": [{"allOf": [ref("B")]}, {"type": "null"}]},
            "c": ref("B"),
            "d": {"type": "string", "contentEncoding": "base64"},
            "e": {"type": "string", "contentMediaType": "application/octet-stream"},
            "nullable": {"type": "string"},
            "example": {"type": "array", "items": {"type": ["string", "null"]}},
            "$ref": {"type": "string"},
        },
    }


def test_3_1_stays_as_it_is() -> None:
    new = {
        "type": ["object", "null"],
        "properties": {"nullable": {"const": None}, "x": {**ref("B"), "description": "counts"}, "y": True},
        "exclusiveMinimum": 3,
        "$defs": {"C": {"if": ref("B"), "then": False}},
        "prefixItems": [ref("B")],
        "default": None,
    }
    document = merge(sales=doc({SALES: get(new)}, schemas={"B": {"type": "string"}}))
    assert schema_of(document, SALES) == new


# --- names -------------------------------------------------------------------------------------------------------


def test_what_is_the_same_is_there_once_and_what_is_not_gets_the_services_name() -> None:
    same = {"type": "object", "properties": {"children": {"type": "array", "items": ref("Tree")}}}
    page = {"type": "array", "items": ref("Item")}
    document = merge(
        inventory=doc(
            {ITEMS: get({"anyOf": [ref("Tree"), ref("Page")]})},
            schemas={"Tree": same, "Page": page, "Item": {"type": "string"}},
        ),
        sales=doc(
            {SALES: get({"anyOf": [ref("Tree"), ref("Page")]})},
            schemas={
                "Tree": dict(reversed(same.items())),
                # The same words, but about another Item.
                "Page": page,
                "Item": {"type": "integer"},
                "InventoryPage": {"type": "null"},
                "unused": {},
            },
        ),
    )
    assert set(document["components"]["schemas"]) == {
        "Tree", "InventoryPage", "SalesPage", "InventoryItem", "SalesItem",
    }  # fmt: skip
    assert schema_of(document, ITEMS) == {"anyOf": [ref("Tree"), ref("InventoryPage")]}
    assert schema_of(document, SALES) == {"anyOf": [ref("Tree"), ref("SalesPage")]}
    assert document["components"]["schemas"]["SalesPage"] == {"type": "array", "items": ref("SalesItem")}


def test_3_0_and_3_1_spellings_of_the_same_are_the_same() -> None:
    document = merge(
        inventory=doc({ITEMS: get(ref("A"))}, "3.0.0", schemas={"A": {"type": "string", "nullable": True}}),
        sales=doc({SALES: get(ref("A"))}, schemas={"A": {"type": ["string", "null"]}}),
    )
    assert list(document["components"]["schemas"]) == ["A"]


def test_every_kind_of_component_is_renamed_with_all_that_refers_to_it() -> None:
    def one(path: str, mark: str) -> Json:
        operation = {
            "operationId": "make",
            "parameters": [{"$ref": "#/components/parameters/P"}],
            "requestBody": {"$ref": "#/components/requestBodies/B"},
            "responses": {
                "200": {"$ref": "#/components/responses/R"},
                "404": {
                    "description": "",
                    "headers": {"X": {"$ref": "#/components/headers/H"}},
                    "content": {"a/b": {"examples": {"e": {"$ref": "#/components/examples/E"}}}},
                    "links": {"l": {"$ref": "#/components/links/L"}},
                },
            },
            "callbacks": {"c": {"$ref": "#/components/callbacks/C"}},
        }
        called = {
            "operationId": "make",
            "requestBody": {"$ref": "#/components/requestBodies/B"},
            "responses": {"200": {"description": mark}},
        }
        return doc(
            {path: {"post": operation}},
            parameters={"P": {"name": mark, "in": "query", "schema": ref("S")}},
            requestBodies={"B": {"content": {"application/json": {"schema": ref("S")}}}},
            responses={"R": {"description": mark}},
            headers={"H": {"schema": ref("S")}},
            examples={"E": {"value": {"$ref": "#/components/schemas/S", "mark": mark}}},
            links={"L": {"operationId": "make", "description": mark}},
            callbacks={"C": {"{$url}": {"post": called}}},
            schemas={"S": {"const": mark}},
        )  # fmt: skip

    document = merge(inventory=one(ITEMS, "i"), sales=one(SALES, "s"))
    for path, service, mark in ((ITEMS, "Inventory", "i"), (SALES, "Sales", "s")):
        made = document["paths"][path]["post"]
        assert made["operationId"] == f"{service.lower()}_make"
        assert follow(document, made["parameters"][0]["$ref"])["name"] == mark
        body = follow(document, made["requestBody"]["$ref"])
        assert follow(document, body["content"]["application/json"]["schema"]["$ref"]) == {"const": mark}
        missing = made["responses"]["404"]
        assert follow(document, missing["headers"]["X"]["$ref"])["schema"] == ref(f"{service}S")
        example = follow(document, missing["content"]["a/b"]["examples"]["e"]["$ref"])
        assert example["value"] == {"$ref": "#/components/schemas/S", "mark": mark}
        link = follow(document, missing["links"]["l"]["$ref"])
        assert link == {"operationId": f"{service.lower()}_make", "description": mark}
        called = follow(document, made["callbacks"]["c"]["$ref"])["{$url}"]["post"]
        assert called["requestBody"] == made["requestBody"]


def test_discriminators_name_the_renamed_schemas_also_where_it_went_without_saying() -> None:
    def pets(path: str, mark: str) -> Json:
        return doc(
            {path: get(ref("Pet"))},
            schemas={
                "Pet": {
                    "type": "object",
                    "title": mark,
                    "discriminator": {
                        "propertyName": "kind",
                        "mapping": {"c": "Cat", "k": "#/components/schemas/Cat"},
                    },
                },
                "Cat": {"allOf": [ref("Pet"), {"title": mark}]},
                "Dog": {"allOf": [ref("Pet")]},
            },
        )

    document = merge(inventory=pets(ITEMS, "i"), sales=pets(SALES, "s"))
    for service in ("Inventory", "Sales"):
        mapping = document["components"]["schemas"][f"{service}Pet"]["discriminator"]["mapping"]
        assert mapping == {
            "c": f"#/components/schemas/{service}Cat",
            "k": f"#/components/schemas/{service}Cat",
            "Dog": f"#/components/schemas/{service}Dog",
        }
        assert document["components"]["schemas"][f"{service}Dog"] == {"allOf": [ref(f"{service}Pet")]}


def test_links_follow_their_operations_and_those_to_nowhere_go() -> None:
    links = {
        "by_id": {"operationId": "read"},
        "by_ref": {"operationRef": "#/paths/~1api~1v1~1inventory~1items~1{id}/get"},
        "lost": {"operationId": "internal"},
        "outside": {"operationRef": "https://elsewhere.example/#/paths/~1x/get"},
    }
    listed = {"get": {"responses": {"200": {"description": "", "links": links}}}}
    one = get(operationId="read")
    document = merge(
        inventory=doc({ITEMS: listed, ITEMS + "/{id}": one, "/internal": get(operationId="internal")}),
        sales=doc({SALES: get(operationId="read")}),
    )
    found = document["paths"][ITEMS]["get"]["responses"]["200"]["links"]
    assert found == {"by_id": {"operationId": "inventory_read"}, "by_ref": {"operationId": "inventory_read"}}


def test_odd_names_and_pointers() -> None:
    names = {
        "Page[Item]": {"type": "string"},
        "a/b~c": {"properties": {"x/y": {"type": "null"}}},
        "": {"const": 1},
    }
    document = merge(
        inventory=doc(
            {
                ITEMS: get(
                    {
                        "anyOf": [
                            ref("Page%5BItem%5D"),
                            ref("a~1b~0c"),
                            ref("a~1b~0c/properties/x~1y"),
                            ref(""),
                        ]
                    }
                )
            },
            schemas=names,
        )
    )
    options = [option["$ref"] for option in schema_of(document, ITEMS)["anyOf"]]
    assert [follow(document, option) for option in options] == [
        {"type": "string"}, {"properties": {"x/y": {"type": "null"}}}, {"type": "null"}, {"const": 1},
    ]  # fmt: skip


def test_operation_ids_are_unique_and_the_gateways_own_stay() -> None:
    own = "postGeocode"
    document = merge(
        OWN,
        inventory=doc({ITEMS: {**get(operationId=own), "post": get(operationId="x")["get"]}}),
        sales=doc(
            {
                SALES: {
                    **get(operationId="x"),
                    "post": get(operationId="x")["get"],
                    "put": get(operationId="y")["get"],
                }
            }
        ),
    )
    assert document["paths"]["/api/v1/geocode"]["post"]["operationId"] == own
    ids = [op["operationId"] for item in document["paths"].values() for op in item.values()]
    assert len(set(ids)) == len(ids)
    assert {"inventory_postGeocode", "inventory_x", "sales_x", "sales_x_2", "y"} <= set(ids)


def test_tags_are_the_services_own() -> None:
    base = doc(
        {ITEMS: get(), ITEMS + "/a": get(tags=["Inventory Service"]), ITEMS + "/b": get(tags=["stock", 3])}
    )
    document = merge(inventory={**base, "tags": [{"name": "stock", "description": "What is there"}, 7]})
    assert [document["paths"][path]["get"]["tags"] for path in document["paths"]] == [
        ["inventory"], ["inventory"], ["inventory: stock"],
    ]  # fmt: skip
    assert document["tags"] == [
        {"name": "inventory"},
        {"name": "inventory: stock", "description": "What is there"},
    ]


def test_parameters_of_the_path_are_all_there_under_one_spelling() -> None:
    shared = {"$ref": "#/components/parameters/Id"}
    document = merge(
        tenant=doc(
            {
                "/api/v1/tenants/{id}": {"delete": get()["get"], "parameters": [shared]},
                "/api/v1/tenants/{tenant}/x": get(),
                "/api/v1/tenants/{other}/x": get(),
            },
            parameters={"Id": {"name": "id", "in": "path", "required": False, "schema": {"type": "integer"}}},
        )
    )
    assert document["paths"]["/api/v1/tenants/{id}"]["delete"]["parameters"] == [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}
    ]
    assert document["paths"]["/api/v1/tenants/{tenant}/x"]["get"]["parameters"][0]["name"] == "tenant"
    assert "other names" in document["x-services"]["tenant"]["left_out"][0]


# --- what cannot be used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "common.yaml#/Item"},
        {"$ref": "https://elsewhere.example/a.json"},
        {"$ref": "#/components/schemas/Gone"},
        {"$ref": "#/components/responses/R"},
        {"$ref": "#/definitions/X"},
        {"$ref": "#/components/schemas/Deep"},
        {"$ref": "#/components/schemas/Fine/properties/gone"},
        {"$ref": 3},
        {"type": "file"},
        {"type": []},
        {"$id": "https://elsewhere.example/"},
        {"items": 3},
        {"allOf": [{"discriminator": {}}]},
        "text",
    ],
)
def test_an_operation_that_needs_what_cannot_be_had_is_left_out_and_said(schema: Any) -> None:
    schemas = {
        "Deep": {"properties": {"x": ref("Deeper")}},
        "Deeper": {"anyOf": [ref("Deep"), {"$ref": "other.json"}]},
        "Fine": {"properties": {}},
    }
    responses = {"R": {"description": ""}}
    document = merge(
        inventory=doc(
            {ITEMS: get(schema), ITEMS + "/ok": get(ref("Fine"))}, schemas=schemas, responses=responses
        )
    )
    assert list(document["paths"]) == [ITEMS + "/ok"]
    assert list(document["components"]["schemas"]) == ["Fine"]
    (said,) = document["x-services"]["inventory"]["left_out"]
    assert said.startswith(f"GET {ITEMS}: ")


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"swagger":"2.0","paths":{}}',
        b'{"openapi":3.1,"paths":{}}',
        b'{"openapi":"3.2.0","paths":{}}',
        b'{"openapi":"3.1.0"}',
        b'{"openapi":"3.1.0","paths":[]}',
        b'{"openapi":"3.1.0","paths":' + b'{"a":' * 100_000,
        "service unreachable",
    ],
)
def test_a_missing_or_broken_document_is_left_out_and_said(broken: Any) -> None:
    document = merge(inventory=broken, sales=doc({SALES: get()}))
    assert list(document["paths"]) == [SALES]
    assert document["x-services"]["inventory"]["included"] is False
    assert document["x-services"]["inventory"]["reason"]
    assert "inventory" in document["info"]["description"]
    assert "sales" not in document["info"]["description"].split("Not in here")[1]


@pytest.mark.parametrize(("levels", "served"), [(60, True), (110, False), (900, False), (100_000, False)])
def test_schemas_nested_too_deeply_are_left_out(levels: int, served: bool) -> None:
    deep = b'{"items":' * levels + b"{}" + b"}" * levels
    body = msgspec.json.encode(doc({ITEMS: get("DEEP")})).replace(b'"DEEP"', deep)
    assert (ITEMS in merge(inventory=body, sales=doc({SALES: get()}))["paths"]) is served


@pytest.mark.parametrize(
    "schemas",
    [
        {"A": ref("A")},
        {"A": ref("B"), "B": ref("A")},
        {"A": {"properties": {"x": {"$ref": "#/components/schemas/A/properties/x"}}}},
        {"A": {"properties": {"x": ref("A/properties/x/items")}}},
    ],
)
def test_references_that_lead_nowhere_but_in_a_circle_are_left_out(schemas: Json) -> None:
    document = merge(inventory=doc({ITEMS: get(ref("A")), ITEMS + "/ok": get()}, schemas=schemas))
    assert list(document["paths"]) == [ITEMS + "/ok"]


def test_recursive_schemas_are_served() -> None:
    schemas = {"A": {"properties": {"b": ref("B")}}, "B": {"items": ref("A"), "$defs": {"x": ref("B")}}}
    document = merge(inventory=doc({ITEMS: get(ref("A"))}, schemas=schemas))
    assert document["components"]["schemas"] == schemas


def test_what_is_left_out_is_told_only_so_often() -> None:
    bad = {f"{ITEMS}/{number}": get("x") for number in range(50)}
    state = merge(inventory=doc(bad))["x-services"]["inventory"]
    assert (len(state["left_out"]), state["left_out_too"]) == (20, 30)


# --- anything ----------------------------------------------------------------------------------------------------

_names = st.sampled_from(["A", "B", "SalesA", "InventoryA", "Item", "A b", "Problem"])
_schemas: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        st.builds(ref, st.sampled_from(["A", "B", "SalesA", "InventoryA", "Item"]))
        | st.fixed_dictionaries({"const": st.integers(0, 2)})
        | st.fixed_dictionaries(
            {"properties": st.dictionaries(st.sampled_from(["$ref", "x"]), _schemas, max_size=2)}
        )
        | st.fixed_dictionaries(
            {"examples": st.just([{"$ref": "#/components/schemas/A"}]), "type": st.just("object")}
        )
    )
)
_components = st.fixed_dictionaries(dict.fromkeys(("A", "B", "SalesA", "InventoryA", "Item"), _schemas))


def resolved(document: Json, schema: Any, depth: int) -> Any:
    """`schema` with its references followed, `depth` deep."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            return "..." if depth == 0 else resolved(document, follow(document, schema["$ref"]), depth - 1)
        kept = {key: value for key, value in schema.items() if key in {"const", "examples", "type"}}
        if "properties" in schema:
            kept["properties"] = {
                name: resolved(document, each, depth) for name, each in schema["properties"].items()
            }
        return kept
    return schema


@settings(max_examples=40, deadline=None)
@given(_components, _components, st.sampled_from(["3.0.0", "3.1.0"]))
def test_whatever_collides_every_operation_keeps_its_meaning(ours: Json, theirs: Json, version: str) -> None:
    documents = {
        "inventory": (
            ITEMS,
            doc({ITEMS: get({"properties": {name: ref(name) for name in ours}})}, schemas=ours),
        ),
        "sales": (
            SALES,
            doc({SALES: get({"properties": {name: ref(name) for name in theirs}})}, version, schemas=theirs),
        ),
    }
    document = merge(**{name: each for name, (_, each) in documents.items()})
    for path, before in documents.values():
        if path not in document["paths"]:
            continue  # references in a circle
        was, now = schema_of(before, path), schema_of(document, path)
        assert resolved(before, was, 6) == resolved(document, now, 6)
    definitions = document["components"].get("schemas", {})
    assert len(definitions) <= len(ours) + len(theirs)


def _everything() -> Json:
    operation = {
        "operationId": "all",
        "tags": ["a"],
        "parameters": [
            {
                "name": "q",
                "in": "query",
                "schema": ref("A"),
                "style": "form",
                "examples": {"e": {"value": 1}},
            },
            {"$ref": "#/components/parameters/P"},
        ],
        "requestBody": {"content": {"m/p": {"schema": ref("A"), "encoding": {"x": {"contentType": "a/b"}}}}},
        "responses": {
            "200": {
                "description": "",
                "headers": {"X": {"schema": {"type": "string"}}},
                "content": {"application/json": {"schema": ref("A"), "example": 1}},
                "links": {"l": {"operationId": "all"}},
            },
            "4XX": {"$ref": "#/components/responses/R"},
        },
        "callbacks": {"c": {"{$url}": {"post": {"responses": {"200": {"description": ""}}}}}},
        "security": [{"key": []}],
    }
    return {
        **doc(
            {ITEMS + "/{id}": {"get": operation, "parameters": [{"name": "id", "in": "path", "schema": {}}]}},
            schemas={"A": {"type": "object", "properties": {"a": ref("A")}, "required": ["a"], "minProperties": 1,
                           "discriminator": {"propertyName": "a", "mapping": {"x": "A"}}}},
            parameters={"P": {"name": "p", "in": "header", "content": {"a/b": {"schema": True}}}},
            responses={"R": {"description": "r"}},
            securitySchemes={"key": {"type": "apiKey", "in": "header", "name": "X-Key"}},
        ),
        "servers": [{"url": "/"}],
        "tags": [{"name": "a"}],
    }  # fmt: skip


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


_PLACES = list(_places(_everything()))[1:]
_JUNK: list[Any] = [
    None,
    3,
    -1,
    "x",
    "",
    True,
    [],
    {},
    [3],
    ["a", "a"],
    {"$ref": "#/components/schemas/A"},
    {"x": 1},
    {"": {}},
]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(_PLACES), st.sampled_from(_JUNK)), min_size=1, max_size=3),
    st.booleans(),
)
def test_whatever_is_wrong_with_a_document_the_result_is_valid(
    changes: list[tuple[tuple[Any, ...], Any]], old: bool
) -> None:
    document = copy.deepcopy(_everything())
    if old:
        document["openapi"] = "3.0.3"
    for path, junk in changes:
        target: Any = document
        try:
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = copy.deepcopy(junk)
        except (KeyError, IndexError, TypeError):
            continue
    merge(inventory=document, sales=doc({SALES: get()}))


def test_rows_of_gateway_toml_count_like_the_built_in_ones() -> None:
    row = RouteRow(pattern="/api/v1/loyalty/**", service="loyalty", public=True)
    body, complete = merged(
        NO_OWN, {"loyalty": msgspec.json.encode(doc({"/api/v1/loyalty/x": get()}))}, (*ROUTES, row)
    )
    document = msgspec.json.decode(body)
    assert complete
    assert document["paths"]["/api/v1/loyalty/x"]["get"]["security"] == []
