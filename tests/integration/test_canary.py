"""A canary beside its service: who answers, what each is told, and that a canary in trouble costs nobody a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import free_port
from tests.support.inprocess import Local, by_lane, local_gateway
from tests.support.scripted_upstream import Peer, Script, scripted
from tests.support.tokens import TENANT, access_token, service_token

ITEMS = "/api/v1/inventory/items"


def named(name: bytes, heads: list[bytes], status: bytes = b"200 OK") -> Script:
    """Answers with its name, and keeps what it was asked, bodies included."""

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if not request.startswith(b"GET /health "):
                heads.append(request)
            await peer.send(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(name), name))

    return script


class Both:
    """A gateway whose inventory has a canary, and what both were asked."""

    def __init__(self, gateway: Local) -> None:
        self.gateway = gateway
        self.service: list[bytes] = []
        self.canary: list[bytes] = []

    async def ask(self, user: str = "user-1", method: str = "GET", **more: Any) -> tuple[int, bytes]:
        reply = await self.gateway.ask(method, ITEMS, access_token(user_id=user), **more)
        return reply.status, reply.body

    @property
    def fallbacks(self) -> dict[str, int]:
        return dict(self.gateway.state.splits["inventory"].fallbacks)

    def outcomes(self, name: str) -> dict[str, int]:
        return dict(self.gateway.state.metrics.upstream(name).outcomes)


@asynccontextmanager
async def both(
    store: EmbeddedStore,
    directory: Path,
    canary: str,
    *,
    url: str | None = None,
    script: Script | None = None,
    more: str = "",
) -> AsyncIterator[Both]:
    """`canary` are lines of its table; at `url` or behind `script` it is not the usual one."""
    heads: tuple[list[bytes], list[bytes]] = ([], [])
    async with (
        scripted(named(b"service", heads[0])) as service,
        scripted(script or named(b"canary", heads[1])) as other,
    ):
        config = directory / "gateway.toml"
        where = url or other.url
        config.write_text(f'{more}\n[services.inventory.canary]\nurl = "{where}"\n{canary}\n')
        async with local_gateway(
            store.url,
            directory,
            INVENTORY_SERVICE_URL=service.url,
            GATEWAY_CONFIG=str(config),
            RATE_LIMIT_REQUESTS="100000",
        ) as gateway:
            found = Both(gateway)
            found.service, found.canary = heads
            yield found


async def test_a_user_stays_where_his_place_is(session_store: EmbeddedStore, tmp_path: Path) -> None:
    async with both(session_store, tmp_path, "percent = 50") as pair:
        found: dict[str, set[bytes]] = {}
        for number in range(40):
            user = f"user-{number}"
            found[user] = {(await pair.ask(user))[1] for _ in range(3)}
        assert all(len(answers) == 1 for answers in found.values())
        assert {b"service"} in found.values()
        assert {b"canary"} in found.values()
        assert pair.outcomes("inventory") == {"2xx": len(pair.service)}
        assert pair.outcomes("inventory-canary") == {"2xx": len(pair.canary)}
        assert len(pair.service) + len(pair.canary) == 120


async def test_both_are_told_the_same_of_a_request(session_store: EmbeddedStore, tmp_path: Path) -> None:
    async with both(session_store, tmp_path, 'percent = 0\nheader = "x-canary"') as pair:
        for wish, expected in (("always", b"canary"), ("never", b"service"), ("", b"service")):
            sent = {"x-canary": wish, "x-mirrored": "1", "accept-language": "eu"} if wish else {}
            assert await pair.ask(headers=sent) == (200, expected)
        (canary,) = pair.canary
        service = pair.service[0]
        lines = [
            {
                line
                for line in head.split(b"\r\n")
                if not line.startswith((b"host:", b"x-request-id:", b"trace", b"authorization:"))
            }
            for head in (canary, service)
        ]
        assert lines[0] == lines[1]
        assert b"x-user-id: user-1" in lines[0]
        assert b"x-tenant-id: %b" % TENANT.encode() in lines[0]
        assert not [line for line in lines[0] if line.startswith((b"x-canary", b"x-mirrored"))]
        # Where no canary is, the header is the services' own affair.
        reply = await pair.gateway.ask("GET", "/api/v1/sales/x", access_token(), headers={"x-canary": "a"})
        assert reply.status == 502


async def test_services_and_strangers_have_their_places(session_store: EmbeddedStore, tmp_path: Path) -> None:
    public = '[[routes]]\npattern = "/api/v1/inventory/menu"\nservice = "inventory"\npublic = true\n'
    async with both(session_store, tmp_path, "percent = 50", more=public) as pair:
        ask = pair.gateway.ask
        by_address = {
            (await ask("GET", "/api/v1/inventory/menu", client=f"192.0.2.{n}")).body for n in range(20)
        }
        assert by_address == {b"canary", b"service"}
        by_tenant = {
            (await ask("GET", ITEMS, service_token("orders"), headers={"x-tenant-id": f"tenant-{n}"})).body
            for n in range(20)
        }
        assert by_tenant == {b"canary", b"service"}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_canary_that_is_not_there_costs_no_request(
    session_store: EmbeddedStore, tmp_path: Path, method: str
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    body = b"" if method == "GET" else b'{"name": "flour"}'
    async with both(session_store, tmp_path, "percent = 100", url=url) as pair:
        for _ in range(12):
            assert await pair.ask(method=method, body=body) == (200, b"service")
        # The first five opened its breaker; the others had not to find out.
        assert pair.fallbacks == {"upstream-connect": 5, "upstream-open": 7}
        assert pair.outcomes("inventory-canary") == {"upstream-connect": 5}
        assert pair.outcomes("inventory") == {"2xx": 12}
        assert [request.partition(b"\r\n\r\n")[2] for request in pair.service] == [body] * 12
        assert pair.gateway.state.upstreams["inventory-canary"].breaker_state == "open"
        assert pair.gateway.state.upstreams["inventory"].breaker_state == "closed"


@pytest.mark.parametrize("size", [10, 300_000])
async def test_an_upload_reaches_the_service_whole_when_the_canary_is_not_there(
    session_store: EmbeddedStore, tmp_path: Path, size: int
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    parts = [b"x" * (size // 2), b"y" * (size - size // 2)]
    async with both(session_store, tmp_path, "percent = 100", url=url) as pair:
        assert await upload(pair, parts) == 200
        assert pair.service[0].partition(b"\r\n\r\n")[2] == b"".join(parts)
        assert pair.fallbacks == {"upstream-connect": 1}


async def upload(pair: Both, parts: list[bytes]) -> int:
    """POST `parts`, each in a message of its own; the status."""
    status = 0
    left = list(parts)
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "raw_path": ITEMS.encode(),
        "query_string": b"",
        "headers": [
            (b"host", b"gateway.test"),
            (b"authorization", b"Bearer " + access_token()),
            (b"content-length", b"%d" % sum(map(len, parts))),
        ],
        "client": ("192.0.2.1", "4711"),
    }

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await pair.gateway.gateway(scope, receive, send)
    return status


async def test_what_the_canary_has_read_the_service_does_not_get(
    session_store: EmbeddedStore, tmp_path: Path
) -> None:
    read = 0

    async def breaks_off(peer: Peer) -> None:
        nonlocal read
        request = await peer.request()
        read += not request.startswith(b"GET /health ")
        peer.reset()

    async with both(session_store, tmp_path, "percent = 100", script=breaks_off) as pair:
        status, body = await pair.ask(method="POST", body=b"{}")
        assert (status, json.loads(body)["code"]) == (502, "upstream-reset")
        assert "inventory-canary" in json.loads(body)["detail"]
        assert read == 1
        assert pair.service == []
        # What may be sent again is, to the canary: it is there.
        assert (await pair.ask())[0] == 502
        assert read == 3
        assert pair.service == []
        assert pair.fallbacks == {}


async def test_an_error_of_the_canary_is_an_answer(session_store: EmbeddedStore, tmp_path: Path) -> None:
    script = named(b"broken", [], b"500 Oh")
    async with both(session_store, tmp_path, "percent = 100", script=script) as pair:
        assert await pair.ask() == (500, b"broken")
        assert pair.outcomes("inventory-canary") == {"5xx": 1}
        assert pair.service == []


async def test_a_connection_at_rest_that_has_gone_stale_costs_no_request(
    session_store: EmbeddedStore, tmp_path: Path
) -> None:
    """The canary goes away with connections at rest, whose ends the gateway has not seen yet when it writes."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with both(session_store, tmp_path, "percent = 100", url=url) as pair:
        async with scripted(named(b"canary", pair.canary), port=port):
            assert await pair.ask() == (200, b"canary")
            pool = pair.gateway.state.upstreams["inventory-canary"].replicas[0].pool
            assert len(pool.idle) == 1
        for method in ("GET", "POST"):
            assert await pair.ask(method=method, body=b"") == (200, b"service")


async def test_the_canarys_requests_go_by_callbacks_too(session_store: EmbeddedStore, tmp_path: Path) -> None:
    async with both(session_store, tmp_path, "percent = 100") as pair:
        for _ in range(2):  # its token is verified, a connection is at rest
            assert await pair.ask() == (200, b"canary")
        assert await by_lane(pair.gateway, ITEMS, access_token()) == (True, b"canary")


class Mortal:
    """A canary whose end nobody's loop has to see: it answers in threads, and is gone at once."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                self._open.append(accepted)
                self._threads.append(threading.Thread(target=self._answer, args=(accepted,)))
                self._threads[-1].start()

    def _answer(self, accepted: socket.socket) -> None:
        with accepted, contextlib.suppress(OSError):
            while accepted.recv(65536):
                accepted.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ncanary")

    def die(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for accepted in self._open:
            with contextlib.suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


async def test_a_request_by_callbacks_finds_the_canary_gone_and_is_the_services(
    session_store: EmbeddedStore, tmp_path: Path
) -> None:
    mortal = Mortal()
    async with both(session_store, tmp_path, "percent = 100", url=mortal.url) as pair:
        token = access_token()
        for _ in range(2):
            assert await pair.ask() == (200, b"canary")
        pool = pair.gateway.state.upstreams["inventory-canary"].replicas[0].pool
        mortal.die()
        assert pool.idle  # its end is not read yet
        assert await by_lane(pair.gateway, ITEMS, token) == (False, b"service")
        assert pair.fallbacks == {"upstream-connect": 1}
        assert len(pair.service) == 1
