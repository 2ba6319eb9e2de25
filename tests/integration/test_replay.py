"""`gateway capture` and `gateway replay`: what was captured of the demo's platform, against one that answers differently."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from openapi_schema_validator import OAS31Validator

from demo.platform.info import Info
from demo.platform.messages import Request, Response
from demo.platform.platform import Platform, running_platform
from demo.platform.process import platform_process
from kernel.server.embedded_store import EmbeddedStore
from kernel.telemetry.rotating import existing
from tests.support.gateway import GatewayFactory, GatewayProcess
from tests.support.har import HAR

LABELS = ("owner", "second_owner")
SECRETS = (
    "api-key-hunter2-0123456789",
    "cookie-hunter2-0123456789",
    "query-hunter2-0123456789",
    "body-hunter2-0123456789",
)


@pytest.fixture(scope="module")
def info() -> Iterator[Info]:
    with platform_process() as running:
        yield running


@pytest.fixture(scope="module")
def capture(
    info: Info,
    gateway_factory: GatewayFactory,
    session_store: EmbeddedStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A capture of 1,000 mixed requests, redacted, by two workers."""
    file = tmp_path_factory.mktemp("capture") / "capture.ndjson"
    gateway = gateway_factory(
        {
            **info.environment,
            "REDIS_URL": session_store.url,
            "RATE_LIMIT_REQUESTS": "100000",
            "WORKERS": "2",
            "CAPTURE_FILE": str(file),
            "CAPTURE_BODIES": "true",
            "LOGIN_RATE_LIMIT_ACCOUNT": "0",
            "LOGIN_RATE_LIMIT_ADDRESS": "0",
        }
    )
    for label in LABELS:
        ask_a_mixture(gateway, info.tokens[label], info.tenants[label])
    gateway.stop()
    assert sum(len(each.read_bytes().splitlines()) for each in existing(file)) == 1000
    return file


def ask_a_mixture(gateway: GatewayProcess, token: str, tenant: str) -> None:
    """500 requests of one user: reads, writes, refusals, with secrets wherever clients put them."""
    client = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    bearer = {"Authorization": f"Bearer {token}", "Cookie": f"session={SECRETS[1]}", "User-Agent": "mixture"}
    secret_body = json.dumps({"email": "a@b.example", "password": SECRETS[3]}).encode()
    typed = {"Content-Type": "application/json"}
    mixture: list[tuple[str, str, dict[str, str], bytes]] = [
        ("GET", "/api/v1/inventory/items?limit=5", bearer, b""),
        ("GET", f"/api/v1/tenants/{tenant}/sales/records?limit=3&offset=2", bearer, b""),
        ("HEAD", "/api/v1/recipes", bearer, b""),
        ("GET", "/api/v1/suppliers", bearer | {"X-Partner-Token": SECRETS[0]}, b""),
        ("GET", f"/api/v1/orders/none?limit=1&sig={SECRETS[2]}&token={quote(token)}", bearer, b""),
        ("GET", "/api/v1/inventory/items/00000000-0000-4000-8000-000000000000", bearer, b""),
        ("GET", "/api/v1/production/batches", {}, b""),
        ("GET", "/nowhere", {"X-API-Key": SECRETS[0]}, b""),
        ("POST", "/api/v1/orders/customers", bearer | typed, b'{"name": "Ana"}'),
        ("POST", "/api/v1/auth/login", typed, secret_body),
    ]
    for _ in range(50):
        for method, path, headers, body in mixture:
            client.request(method, path, body or None, headers)
            client.getresponse().read()
    client.close()


class Ran:
    """A command that has ended."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code, self.out, self.err = code, out.decode(), err.decode()


async def run(*arguments: str | Path) -> Ran:
    """`gateway ARGUMENTS`."""
    command = [sys.executable, "-m", "kernel", *map(str, arguments)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out, err)


def answering_differently(platform: Platform) -> None:
    """In three places: a member, a header, a status."""

    def changed(service: str, path: str, change: Any) -> None:
        server = platform.services[service].server
        usual = server.dispatch

        def dispatch(request: Request) -> Any:
            answer = usual(request)
            if request.path == path:
                assert isinstance(answer, Response)
                change(answer)
            return answer

        server.dispatch = dispatch

    def member(answer: Response) -> None:
        assert isinstance(answer.body, bytes)
        document = json.loads(answer.body)
        document["items"][2]["stock"] += 1
        answer.body = json.dumps(document).encode()

    def header(answer: Response) -> None:
        answer.headers = (*answer.headers, ("x-oven", "cold"))

    def status(answer: Response) -> None:
        answer.status = 203

    changed("inventory", "/api/v1/inventory/items", member)
    changed("recipes", "/api/v1/recipes", header)
    changed("suppliers", "/api/v1/suppliers", status)


@asynccontextmanager
async def listening_in(port: int) -> AsyncIterator[tuple[str, bytearray]]:
    """The URL of a way to `port`, and every byte that goes over it towards there."""
    heard = bytearray()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, note: bool) -> None:
        while data := await reader.read(65536):
            if note:
                heard.extend(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, back, note=True), pass_on(there, writer, note=False))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
    finally:
        server.close()


async def test_three_differences_are_found_and_no_credential_is_sent(
    capture: Path, info: Info, gateway_factory: GatewayFactory, session_store: EmbeddedStore
) -> None:
    tokens = [info.tokens[label] for label in LABELS]
    captured = (*SECRETS, *tokens, *(token.rpartition(".")[2] for token in tokens))
    written = b"".join(file.read_bytes() for file in existing(capture))
    async with running_platform() as platform:
        answering_differently(platform)
        second = await asyncio.to_thread(
            gateway_factory,
            {**platform.environment(), "REDIS_URL": session_store.url, "RATE_LIMIT_REQUESTS": "100000"},
        )
        given = [f"--token={info.tenants[label]}={platform.token(label)}" for label in LABELS]
        async with listening_in(second.port) as (url, heard):
            ran = await run("replay", capture, "--target", url, *given, "--json", "--concurrency", "4")
        shown = await run("replay", capture, "--target", second.url, *given)
        faulty = await run("replay", capture, "--target", second.url, *given, "--diff", "--ignore", "status")
    report = json.loads(ran.out)
    places = {(each["method"], each["path"], each["kind"], each["where"]) for each in report["places"]}
    assert places == {
        ("GET", "/api/v1/inventory/items", "json", "/items/*/stock"),
        ("HEAD", "/api/v1/recipes", "header", "x-oven"),
        ("GET", "/api/v1/suppliers", "status", ""),
    }
    assert [each["requests"] for each in report["places"]] == [100, 100, 100]
    assert (report["sent"], report["same"], report["different"], report["unanswered"]) == (800, 500, 300, 0)
    assert report["shortened"] == 100
    assert sum(report["left_out"].values()) == 200
    assert ran.code == shown.code == 1
    for secret in captured:
        assert secret.encode() not in written
        assert secret.encode() not in heard
    assert b"[redacted" not in heard
    assert heard.count(b"\r\nx-replayed: 1\r\n") == 800
    assert heard.count(b"\r\nauthorization: Bearer ") == 600
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "Different in 3 places:" in shown.out
    assert "json /items/*/stock: " in shown.out
    assert "200 left out: changes something" in shown.out
    assert "500 the same, 300 different" in shown.out
    assert "600 the same, 200 different" in faulty.out
    assert faulty.out.count("  header x-oven: (absent) -> cold") == 100 + 1
    for secret in (*captured, *(each.rpartition("=")[2] for each in given)):
        assert secret not in shown.out + faulty.out + ran.out


async def test_the_same_platform_answers_the_same(
    capture: Path, info: Info, gateway_factory: GatewayFactory, session_store: EmbeddedStore
) -> None:
    second = await asyncio.to_thread(
        gateway_factory, {**info.environment, "REDIS_URL": session_store.url, "RATE_LIMIT_REQUESTS": "100000"}
    )
    given = [f"--token={info.tenants[label]}={info.tokens[label]}" for label in LABELS]
    ran = await run("replay", capture, "--target", second.url, *given)
    assert (ran.code, ran.err) == (0, "")
    assert "800 the same, 0 different" in ran.out
    without = await run("replay", capture, "--target", second.url, "--rate", "2000", "--json")
    report = json.loads(without.out)
    assert without.code == 1
    assert report["different"] == 600  # 401: nobody asks
    assert report["seconds"] >= 799 / 2000
    second.stop()
    gone = await run("replay", capture, "--target", second.url)
    assert gone.code == 2
    assert "cannot be reached" in gone.err


async def test_a_capture_is_a_har(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "capture.har"
    ran = await run("capture", capture, "--har", out)
    assert (ran.code, ran.err) == (0, f"gateway: 1000 requests in {out}\n")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    document = json.loads(out.read_bytes())
    OAS31Validator(HAR).validate(document)
    assert len(document["log"]["entries"]) == 1000
    summary = await run("capture", capture)
    assert "1000 requests" in summary.out
    assert re.search(r"^100 +POST +/api/v1/orders/\*\* +201$", summary.out, re.MULTILINE)
