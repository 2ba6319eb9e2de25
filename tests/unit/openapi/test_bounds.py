"""Documents that make much of little: what comes of them is bounded, and so is the work."""

from __future__ import annotations

import threading
from time import monotonic, process_time, sleep
from typing import Any

import msgspec
import pytest

from kernel.openapi.editions import Edition
from kernel.openapi.maker import Maker
from kernel.openapi.parts import MAX_ALL, MAX_MADE
from kernel.openapi.together import merged
from kernel.primitives import own_process
from kernel.primitives.own_process import NotMade
from kernel.routing.platform import ROUTES, SERVICES

Json = dict[str, Any]
NO_OWN = b'{"openapi":"3.1.0","info":{},"paths":{}}'
# Seconds of CPU; each took 0.1 to 0.4 s here, and 5 to 40 before.
SOON = 4


def doc(paths: Json, servers: Any = (), security: Any = (), **components: Any) -> bytes:
    info = {"title": "A service", "version": "7"}
    return msgspec.json.encode(
        {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}
        | ({"servers": servers} if servers else {})
        | ({"security": security} if security else {})
    )


def get(schema: Any, **more: Any) -> Json:
    content = {"application/json": {"schema": schema}}
    return {"get": {"responses": {"200": {"description": "", "content": content}}, **more}}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def state(found: dict[str, bytes], service: str = "inventory") -> Json:
    began = process_time()
    body, _ = merged(NO_OWN, found, ROUTES)
    assert process_time() - began < SOON
    assert len(body) < MAX_ALL
    answer: Json = msgspec.json.decode(body)["x-services"][service]
    return answer


def paths(count: int, item: Any, service: str = "inventory") -> Json:
    return {f"/api/v1/{service}/p{number}": item for number in range(count)}


BIG = "d" * 900_000
AMPLIFIED = {
    "one path item": doc(
        paths(1000, {"$ref": "#/components/pathItems/P"}), pathItems={"P": get({}, description=BIG)}
    ),
    "a path item of a path item": doc(
        paths(1000, {"$ref": "#/components/pathItems/P"}),
        pathItems={"P": {"$ref": "#/components/pathItems/Q"}, "Q": {"summary": BIG, **get({})}},
    ),
    "one parameter of the path": doc(
        {
            f"/api/v1/inventory/p{number}/{{id}}": {
                "parameters": [{"$ref": "#/components/parameters/P"}],
                **get({}),
            }
            for number in range(500)
        },
        parameters={"P": {"name": "id", "in": "path", "required": True, "description": BIG}},
    ),
    "parameters that seven methods share": doc(
        paths(
            100,
            {"$ref": "#/components/pathItems/P"},
        ),
        pathItems={
            "P": {
                "parameters": [{"name": "q", "in": "query", "description": BIG[:400_000]}],
                **{method: get({})["get"] for method in ("get", "put", "post", "delete", "patch", "head")},
            }
        },
    ),
    "one list of keys": doc(
        paths(2000, get({})),
        security=[{f"k{number}": []} for number in range(2000)],
        securitySchemes={
            f"k{number}": {"type": "apiKey", "in": "header", "name": f"x-{number}"} for number in range(2000)
        },
    ),
}


@pytest.mark.parametrize("name", AMPLIFIED)
def test_a_document_that_makes_too_much_is_left_out_and_that_is_said(name: str) -> None:
    assert len(AMPLIFIED[name]) < 1024 * 1024
    answer = state({"inventory": AMPLIFIED[name]})
    assert (answer["included"], answer["reason"]) == (False, "it makes more than 8 MiB")


def test_what_makes_less_is_served_whole() -> None:
    item = {"P": get({}, description="d" * 7000)}
    answer = state({"inventory": doc(paths(1000, {"$ref": "#/components/pathItems/P"}), pathItems=item)})
    assert (answer["included"], answer["operations"]) == (True, 1000)


def test_all_together_have_a_bound_too_and_the_others_are_served() -> None:
    item = {"P": get({}, description="d" * 7000)}
    given = {
        service.name: doc(
            paths(1000, {"$ref": "#/components/pathItems/P"}, service.prefixes[0]), pathItems=item
        )
        for service in SERVICES[:6]
    }
    body, complete = merged(NO_OWN, given, ROUTES)
    states = msgspec.json.decode(body)["x-services"]
    assert len(body) < MAX_ALL
    assert not complete
    assert [each["included"] for each in states.values()] == [True] * 4 + [False] * 2
    assert list(states.values())[-1]["reason"] == "all documents together would have more than 32 MiB"
    assert len(body) > 3 * MAX_MADE


def chain(length: int, service: str, last: Json) -> bytes:
    schemas: Json = {f"A{n}": {"properties": {"next": ref(f"A{n + 1}")}} for n in range(length)}
    schemas[f"A{length}"] = last
    return doc({f"/api/v1/{service}/x": get(ref("A0"))}, schemas=schemas)


@pytest.mark.parametrize("last", [{"type": "string"}, ref("A0")], ids=["chain", "circle"])
def test_long_chains_and_circles_are_compared_in_linear_time(last: Json) -> None:
    alike = {service: chain(6000, service, last) for service in ("inventory", "sales")}
    began = process_time()
    document = msgspec.json.decode(merged(NO_OWN, alike, ROUTES)[0])
    assert process_time() - began < SOON
    assert len(document["components"]["schemas"]) == 6001
    # What differs at the far end makes all that lead there different.
    other = alike | {"sales": chain(6000, "sales", {"type": "integer"})}
    began = process_time()
    document = msgspec.json.decode(merged(NO_OWN, other, ROUTES)[0])
    assert process_time() - began < SOON
    assert len(document["components"]["schemas"]) == 12002


def test_thousands_of_names_that_become_one_get_numbers_in_linear_time() -> None:
    names = ["N" + "".join(chr(0x100 + (n >> 6 * k & 63)) for k in range(3)) for n in range(8000)]
    schemas = {name: {"const": number} for number, name in enumerate(names)}
    given = doc({"/api/v1/inventory/x": get({"anyOf": [ref(name) for name in names]})}, schemas=schemas)
    assert state({"inventory": given})["included"]


def test_thousands_of_operations_of_one_id_get_numbers_in_linear_time() -> None:
    assert state({"inventory": doc(paths(5000, get({}, operationId="read")))})["operations"] == 5000


def test_references_along_one_long_way_are_followed_once() -> None:
    deep: Json = {"properties": {"x" * 200: {"properties": {"y" * 5000: {"type": "string"}}}}}
    way = f"#/components/schemas/D/properties/{'x' * 200}/properties/{'y' * 5000}"
    links = {f"L{n}": {"$ref": f"#/components/schemas/L{n + 1}"} for n in range(31)} | {"L31": {"$ref": way}}
    given = doc({"/api/v1/inventory/x": get({"anyOf": [ref("L0")] * 20_000})}, schemas=links | {"D": deep})
    assert state({"inventory": given})["included"]


def test_servers_and_their_variables_make_no_more_work() -> None:
    server = {
        "url": "https://x" + "/{a}" * 1000,
        "variables": {"a": {"default": "b" * 100_000}} | {f"v{n}": {"default": "c"} for n in range(2000)},
    }
    given = doc(paths(2000, get({})), servers=[server, *({"url": f"/{n}"} for n in range(10_000))])
    assert state({"inventory": given})["operations"] == 2000


def test_ten_thousand_paths_are_read_and_more_are_not() -> None:
    assert state({"inventory": doc(paths(10_000, {}))})["included"]
    assert state({"inventory": doc(paths(10_001, {}))})["reason"] == "it has more than 10000 paths"


# --- in a process of its own -------------------------------------------------------------------------------------


def test_another_process_makes_the_same() -> None:
    given: dict[str, bytes | str] = {
        "sales": chain(20, "sales", {}),
        "inventory": "not reached",
        "pos": b"\xff",
        "auth": b"",
    }
    assert Maker(Edition(rows=ROUTES))(NO_OWN, given) == merged(NO_OWN, given, ROUTES)
    del given["inventory"], given["pos"], given["auth"]
    assert Maker(Edition(rows=ROUTES))(NO_OWN, given)[1]


def test_one_that_fails_or_takes_too_long_is_told_and_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "_CODE", "raise SystemExit(1)")
    with pytest.raises(NotMade, match="without a result"):
        Maker(Edition(rows=ROUTES))(NO_OWN, {})
    monkeypatch.setattr(own_process, "_CODE", "import time; time.sleep(60)")
    monkeypatch.setattr(own_process, "_SECONDS", 0.2)
    with pytest.raises(NotMade, match="longer"):
        Maker(Edition(rows=ROUTES))(NO_OWN, {})


def test_stopping_ends_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "_CODE", "import time; time.sleep(60)")
    make = Maker(Edition(rows=ROUTES))
    said: list[str] = []

    def work() -> None:
        with pytest.raises(NotMade) as raised:
            make(NO_OWN, {})
        said.append(str(raised.value))

    thread = threading.Thread(target=work)
    thread.start()
    deadline = monotonic() + 20
    while make._process._process is None and monotonic() < deadline:
        sleep(0.01)
    make.stop()
    thread.join(20)
    assert said == ["its process ended without a result"]
    with pytest.raises(NotMade, match="ends"):
        make(NO_OWN, {})
