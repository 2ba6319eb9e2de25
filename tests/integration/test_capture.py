"""Capture: what clients asked and were answered, in a file, without a secret in it; and whom it costs nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from kernel.app import CapturingGateway, Gateway
from kernel.capture.redaction import MARK
from kernel.server.embedded_store import EmbeddedStore
from kernel.telemetry.rotating import existing
from tests.support.gateway import service_env
from tests.support.inprocess import Local, local_gateway
from tests.support.recorder import Recorder, recording_upstream
from tests.support.tokens import TENANT, access_token

ITEMS = "/api/v1/inventory/items"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Recorder]:
    with recording_upstream() as recorder:
        yield recorder


@asynccontextmanager
async def capturing(
    store: EmbeddedStore, directory: Path, upstream: Recorder, **environment: str
) -> AsyncIterator[Local]:
    env = {
        **service_env(upstream.url),
        "CAPTURE_FILE": str(directory / "capture.ndjson"),
        "RATE_LIMIT_REQUESTS": "1000000",
        **environment,
    }
    async with local_gateway(store.url, directory, (), None, **env) as gateway:
        yield gateway


def entries(directory: Path) -> list[dict[str, Any]]:
    lines = b"".join(file.read_bytes() for file in existing(directory / "capture.ndjson"))
    assert lines.endswith(b"\n")
    return [json.loads(line) for line in lines.splitlines()]


async def test_a_request_and_its_answer_are_a_line(
    store_server: EmbeddedStore, tmp_path: Path, upstream: Recorder
) -> None:
    async with capturing(store_server, tmp_path, upstream) as gateway:
        reply = await gateway.ask("GET", f"{ITEMS}?page=2&name=a%20b", access_token())
    (entry,) = entries(tmp_path)
    request, response = entry["request"], entry["response"]
    assert request["method"] == "GET"
    assert request["url"] == f"http://gateway.test{ITEMS}?page=2&name=a%20b"
    assert request["queryString"] == [{"name": "page", "value": "2"}, {"name": "name", "value": "a b"}]
    assert request["bodySize"] == 0
    assert response["status"] == reply.status == 200
    assert [(each["name"], each["value"]) for each in response["headers"]] == reply.headers
    assert response["content"] == {"size": len(reply.body), "mimeType": "application/json"}
    assert entry["time"] == pytest.approx(sum(entry["timings"].values()), abs=0.01)
    assert entry["_request_id"] == reply.header("x-request-id")
    assert (entry["_route"], entry["_service"]) == ("/api/v1/inventory/**", "inventory")
    assert (entry["_caller"], entry["_tenant"]) == ("access", TENANT)
    file = tmp_path / "capture.ndjson"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_gateway_that_does_not_capture_has_nothing_of_it(
    store_server: EmbeddedStore, tmp_path: Path, upstream: Recorder
) -> None:
    async with local_gateway(store_server.url, tmp_path, (), None, **service_env(upstream.url)) as gateway:
        routes = [gateway.gateway.router.match("GET", path)[0] for path in (ITEMS.encode(), b"/none")]
        assert not [stage for route in routes for stage in route.stages if "capture" in stage.__module__]
        assert type(gateway.gateway) is Gateway
        assert gateway.state.capture is None
    async with capturing(store_server, tmp_path, upstream) as gateway:
        assert type(gateway.gateway) is CapturingGateway


async def test_no_secret_reaches_the_file_and_equal_ones_stay_equal(
    store_server: EmbeddedStore, tmp_path: Path, upstream: Recorder
) -> None:
    token = access_token()
    secrets = {
        name: f"{name}-hunter2-secret-0123456789" for name in ("api", "sid", "query", "form", "json", "echo")
    }
    upstream.answer = lambda seen: (
        200,
        {"access_token": secrets["echo"], "note": f"you are {secrets['api']}", "n": 1},
    )
    headers = {
        "x-partner-token": secrets["api"],
        "cookie": f"session={secrets['sid']}",
        "content-type": "application/json",
        "x-refresh-token": token.decode(),
        "idempotency-key": "order-4711-of-ana",
    }
    form = headers | {"content-type": "application/x-www-form-urlencoded"}
    async with capturing(store_server, tmp_path, upstream, CAPTURE_BODIES="true") as gateway:
        target = f"{ITEMS}?sig={secrets['query']}&at={quote(token.decode())}"
        document = json.dumps({"user": "ana", "password": secrets["json"], "price": 2}).encode()
        for _ in range(2):
            await gateway.ask("POST", target, token, document, headers=headers)
        await gateway.ask(
            "POST", ITEMS, token, f"user=ana&client_secret={secrets['form']}".encode(), headers=form
        )
        # As `curl -d` sends it, which calls everything a form.
        await gateway.ask("POST", ITEMS, token, document, headers=form)
        await gateway.ask("GET", ITEMS + "/" + token.decode(), None)
    upstream.answer = None
    written = b"".join(file.read_bytes() for file in tmp_path.glob("capture.ndjson*"))
    for secret in (*secrets.values(), token.decode(), token.decode().split(".")[2], "order-4711-of-ana"):
        assert secret.encode() not in written
    first, second, posted, _, _ = entries(tmp_path)
    assert first["request"]["headers"] == second["request"]["headers"]
    assert first["request"]["postData"]["text"] == second["request"]["postData"]["text"]
    assert json.loads(first["request"]["postData"]["text"])["price"] == 2
    assert posted["request"]["postData"]["params"][0] == {"name": "user", "value": "ana"}
    told = json.loads(first["response"]["content"]["text"])
    assert told["n"] == 1
    assert MARK.fullmatch(told["access_token"])
    assert MARK.search(told["note"])  # what a header held is found in a body, too
    assert {each["name"] for each in first["request"]["cookies"]} == {"session"}


async def test_secrets_are_written_where_that_is_asked_for(
    store_server: EmbeddedStore, tmp_path: Path, upstream: Recorder
) -> None:
    token = access_token()
    async with capturing(store_server, tmp_path, upstream, CAPTURE_REDACT="false") as gateway:
        await gateway.ask("GET", ITEMS, token)
    (entry,) = entries(tmp_path)
    assert {"name": "authorization", "value": f"Bearer {token.decode()}"} in entry["request"]["headers"]


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("application/json", b'{"a": 1.50}', {"text": '{"a": 1.50}'}),
        ("application/json", b'{"a": "' + b"x" * 200, {"text": '{"a": "' + "x" * 93, "_truncated": True}),
        ("image/png", b"\x89PNG\0\xff", {"text": "iVBORwD/", "_encoding": "base64"}),
        ("text/plain", "año".encode(), {"text": "año"}),
        ("text/plain", ("x" * 99 + "ñ").encode(), {"text": "x" * 99, "_truncated": True}),
        ("image/png", b'{"pin": "hunter2"}', {"text": ...}),
        ("application/gzip", b"x", {"text": "", "_omitted": ...}),
        ("multipart/form-data; boundary=x", b"--x", {"text": "", "_omitted": ...}),
        ("text/html", b"<p>", {"text": "", "_omitted": ...}),
        ("application/json", '{"password": "x"}'.encode("utf-16"), {"text": "", "_omitted": ...}),
    ],
)
async def test_bodies(
    store_server: EmbeddedStore,
    tmp_path: Path,
    upstream: Recorder,
    kind: str,
    body: bytes,
    expected: dict[str, Any],
) -> None:
    async with capturing(
        store_server, tmp_path, upstream, CAPTURE_BODIES="true", CAPTURE_BODY_BYTES="100"
    ) as gateway:
        await gateway.ask("POST", ITEMS, access_token(), body, headers={"content-type": kind})
    (entry,) = entries(tmp_path)
    found = entry["request"]["postData"]
    assert found.pop("mimeType") == kind
    assert found.keys() == expected.keys()
    assert {name: value for name, value in found.items() if expected[name] is not ...} == {
        name: value for name, value in expected.items() if value is not ...
    }
    assert entry["request"]["bodySize"] == len(body)
    assert "hunter2" not in found["text"]


async def test_packed_bodies_are_unpacked_and_redacted(
    store_server: EmbeddedStore, tmp_path: Path, upstream: Recorder
) -> None:
    async with capturing(store_server, tmp_path, upstream, CAPTURE_BODIES="true") as gateway:
        for packing, body in (("gzip", gzip.compress(b'{"a": 1, "pin": "hunter2"}')), ("br", b"hunter2")):
            headers = {"content-type": "application/json", "content-encoding": packing}
            await gateway.ask("POST", ITEMS, access_token(), body, headers=headers)
    packed, other = entries(tmp_path)
    assert packed["request"]["postData"]["text"].startswith('{"a": 1, "pin": "[redacted:')
    assert other["request"]["postData"]["_omitted"] == "content-encoding br"


async def test_what_the_gateway_answers_itself_is_captured_and_probes_are_not(
    store_server: EmbeddedStore, tmp_path: Path, upstream: Recorder
) -> None:
    origin = {"origin": "https://app.example.com", "access-control-request-method": "POST"}
    async with capturing(store_server, tmp_path, upstream) as gateway:
        await gateway.ask("GET", ITEMS)
        await gateway.ask("GET", "/nowhere?token=hunter2")
        await gateway.ask("GET", "/api/v1/../etc")
        await gateway.ask("OPTIONS", ITEMS, headers=origin)
        await gateway.ask("HEAD", ITEMS, access_token())
        await gateway.ask("GET", "/health/live")
        await gateway.ask("GET", "/metrics")
    found = [
        (each["request"]["method"], each["response"]["status"], each.get("_problem"))
        for each in entries(tmp_path)
    ]
    assert found[:3] == [
        ("GET", 401, "token-missing"),
        ("GET", 404, "route-unknown"),
        ("GET", 400, "bad-path"),
    ]
    assert found[3:] == [("OPTIONS", 204, None), ("HEAD", 200, None)]


async def test_routes_and_shares(store_server: EmbeddedStore, tmp_path: Path, upstream: Recorder) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(
        '[[routes]]\npattern = "/api/v1/sales/**"\ncapture = false\n[services.orders]\ncapture = true\n'
    )
    paths = ("/api/v1/sales/records", "/api/v1/orders", ITEMS, f"/api/v1/tenants/{TENANT}/sales/records")

    async def captured(directory: Path, **environment: str) -> list[str]:
        directory.mkdir()
        env = {"GATEWAY_CONFIG": str(config), **environment}
        async with capturing(store_server, directory, upstream, **env) as gateway:
            for path in paths * 30:
                await gateway.ask("GET", path, access_token())
            assert len(gateway.state.capture.recorder._live) == 0  # type: ignore[union-attr]
        if not (directory / "capture.ndjson").exists():
            return []
        return [urlsplit(each["request"]["url"]).path for each in entries(directory)]

    assert set(await captured(tmp_path / "all")) == {"/api/v1/orders", ITEMS}
    assert set(await captured(tmp_path / "marked", CAPTURE_ROUTES="marked")) == {"/api/v1/orders"}
    assert 0 < len(await captured(tmp_path / "share", CAPTURE_PERCENT="50.5")) < 60
    assert await captured(tmp_path / "none", CAPTURE_PERCENT="0") == []


async def test_the_files_stay_within_their_bound(
    store_server: EmbeddedStore, tmp_path: Path, upstream: Recorder
) -> None:
    async with capturing(store_server, tmp_path, upstream, CAPTURE_MAX_BYTES="64KiB") as gateway:
        for number in range(120):
            await gateway.ask("GET", f"{ITEMS}?n={number}", access_token())
            if number % 10 == 9:
                gateway.state.capture.recorder.flush()  # type: ignore[union-attr]
    files = list(tmp_path.glob("capture.ndjson*"))
    assert len([file for file in files if not file.name.endswith(".lock")]) <= 4
    assert sum(file.stat().st_size for file in files) <= 64 * 1024
    numbers = [int(each["request"]["queryString"][0]["value"]) for each in entries(tmp_path)]
    assert numbers == list(range(numbers[0], 120))  # the oldest go first, and none between


async def test_a_file_that_cannot_be_written_harms_no_request(
    store_server: EmbeddedStore,
    tmp_path: Path,
    upstream: Recorder,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    directory = tmp_path / "disk"
    directory.mkdir()
    file = directory / "capture.ndjson"
    said: list[tuple[str, dict[str, Any]]] = []
    async with capturing(store_server, tmp_path, upstream, CAPTURE_FILE=str(file)) as gateway:
        capture = gateway.state.capture
        assert capture is not None
        gateway.state.log.warning = lambda event, **fields: said.append((event, fields))  # type: ignore[method-assign]
        gateway.state.log.info = lambda event, **fields: said.append((event, fields))  # type: ignore[method-assign]
        directory.rename(tmp_path / "gone")

        async def told(result: str, count: int) -> None:
            recorder_said = capture.families()["gateway_capture_records_total"]
            while recorder_said[result] < count:
                capture.recorder.flush()
                await asyncio.sleep(0.01)
                recorder_said = capture.families()["gateway_capture_records_total"]

        async with asyncio.timeout(20):
            for count in (1, 2):
                assert (await gateway.ask("GET", ITEMS, access_token())).status == 200
                await told("dropped", count)
            (tmp_path / "gone").rename(directory)
            assert (await gateway.ask("GET", ITEMS, access_token())).status == 200
            await told("written", 1)
    assert [event for event, _ in said] == ["requests cannot be captured", "requests are captured again"]
    assert said[0][1]["reason"] == "No such file or directory"
    assert said[1][1]["lost"] == 2
    assert len(file.read_bytes().splitlines()) == 1
