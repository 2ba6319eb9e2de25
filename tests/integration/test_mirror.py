"""A mirror beside its service: what it is sent, what is counted, and that nothing it does harms a request."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kernel.server.embedded_store import EmbeddedStore
from kernel.traffic import mirror as room
from kernel.traffic.mirror import Mirroring, families
from tests.support.gateway import free_port
from tests.support.inprocess import Local, Reply, by_lane, local_gateway
from tests.support.scripted_upstream import OK, Peer, Script, scripted
from tests.support.store import until
from tests.support.tokens import access_token

ITEMS = "/api/v1/inventory/items"


def answers(kept: list[bytes], reply: bytes = OK) -> Script:
    """Answers everything with `reply`, and keeps what it was asked."""

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if not request.startswith(b"GET /health "):
                kept.append(request)
            await peer.send(reply)

    return script


class Pair:
    """A gateway whose inventory has a mirror, and what both were asked."""

    def __init__(self, gateway: Local, service: list[bytes], mirror: list[bytes]) -> None:
        self.gateway = gateway
        self.service = service
        self.mirror = mirror

    @property
    def mirroring(self) -> Mirroring:
        return self.gateway.state.mirrorings["inventory"]

    @property
    def results(self) -> dict[str, int]:
        return dict(self.mirroring.results)

    async def ask(self, method: str = "GET", target: str = ITEMS, **more: Any) -> Reply:
        return await self.gateway.ask(method, target, access_token(), **more)

    async def settled(self) -> dict[str, int]:
        """The results when no copy is under way."""
        await until(lambda: not self.mirroring.under_way, 10)
        return self.results


@asynccontextmanager
async def pair(
    store: EmbeddedStore,
    directory: Path,
    lines: str = "percent = 100",
    *,
    script: Script | None = None,
    service: Script | None = None,
    url: str | None = None,
    more: str = "",
) -> AsyncIterator[Pair]:
    """`lines` are of the mirror's table; `script` is what it does, instead of answering."""
    kept: tuple[list[bytes], list[bytes]] = ([], [])
    async with (
        scripted(service or answers(kept[0])) as main,
        scripted(script or answers(kept[1])) as other,
    ):
        config = directory / "gateway.toml"
        config.write_text(f'{more}\n[services.inventory.mirror]\nurl = "{url or other.url}"\n{lines}\n')
        async with local_gateway(
            store.url,
            directory,
            INVENTORY_SERVICE_URL=main.url,
            GATEWAY_CONFIG=str(config),
            RATE_LIMIT_REQUESTS="100000",
        ) as gateway:
            yield Pair(gateway, *kept)


@pytest.mark.parametrize(
    "cookie", [{"cookie": "session=1; refresh_token=secret"}, {}], ids=["cookie", "plain"]
)
async def test_a_copy_says_what_the_service_was_told_and_is_marked(
    session_store: EmbeddedStore, tmp_path: Path, cookie: dict[str, str]
) -> None:
    async with pair(session_store, tmp_path) as found:
        reply = await found.ask(
            target=f"{ITEMS}?a=1&b=%20",
            headers={
                "x-mirrored": "1",
                "X_Mirrored".lower(): "1",
                **cookie,
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            },
        )
        assert reply.status == 200
        assert await found.settled() == {"same": 1}
        (service,), (mirror,) = found.service, found.mirror
        lines = [request.split(b"\r\n") for request in (service, mirror)]
        told = [set(each) for each in lines]
        assert [len(each) for each in told] == [
            len(each) - 1 for each in lines
        ]  # none twice, but the empty one
        only = [{line.partition(b":")[0] for line in told[i] - told[1 - i]} for i in (0, 1)]
        # A span of its own, below the same one.
        assert only == [{b"host", b"traceparent"}, {b"host", b"traceparent", b"x-mirrored"}]
        assert b"x-request-id: %b" % str(reply.header("x-request-id")).encode() in told[1]
        assert (b"cookie: session=1" in told[1]) == bool(cookie)
        assert b"x-user-id: user-1" in told[1]
        assert not [line for line in told[0] if line.lower().replace(b"_", b"-").startswith(b"x-mirrored")]
        assert service.startswith(b"GET /api/v1/inventory/items?a=1&b=%20 HTTP/1.1\r\n")
        assert mirror.startswith(b"GET /api/v1/inventory/items?a=1&b=%20 HTTP/1.1\r\n")


async def test_a_request_by_callbacks_is_copied_when_it_is_answered(
    session_store: EmbeddedStore, tmp_path: Path
) -> None:
    async with pair(session_store, tmp_path) as found:
        token = access_token()
        await found.gateway.ask("GET", ITEMS, token)  # it is verified, a connection is at rest
        assert await by_lane(found.gateway, ITEMS, token) == (True, b"ok")
        assert await found.settled() == {"same": 2}
        assert len(found.service) == len(found.mirror) == 2
        assert b"\r\nx-mirrored: 1\r\n" in found.mirror[1]


async def test_a_request_that_leaves_the_callback_lane_is_copied_too(
    session_store: EmbeddedStore, tmp_path: Path
) -> None:
    """Its answer comes in two pieces; and one that breaks off there has no copy."""
    break_off = False

    async def in_pieces(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok")
            await asyncio.sleep(0.05)
            if break_off:
                peer.reset()
                return
            await peer.send(b"ok")

    async with pair(session_store, tmp_path, service=in_pieces) as found:
        token = access_token()
        await found.gateway.ask("GET", ITEMS, token)
        assert await by_lane(found.gateway, ITEMS, token) == (False, b"okok")
        assert await found.settled() == {"same": 2}
        break_off = True
        await by_lane(found.gateway, ITEMS, token)
        assert await found.settled() == {"same": 2}


async def test_by_default_only_reads_are_copied(session_store: EmbeddedStore, tmp_path: Path) -> None:
    async with pair(session_store, tmp_path) as found:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            await found.ask(method, body=b"" if method in {"GET", "OPTIONS"} else b"{}")
        await found.settled()
        assert [request.split()[0] for request in found.mirror] == [b"GET"]


async def test_a_head_has_no_body_to_wait_for(session_store: EmbeddedStore, tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
    kept: list[bytes] = []
    async with pair(session_store, tmp_path, service=answers([], head), script=answers(kept, head)) as found:
        for _ in range(3):
            assert (await found.ask("HEAD")).status == 200
        assert await found.settled() == {"same": 3}
        assert [request.split()[0] for request in kept] == [b"HEAD"] * 3


async def test_writes_are_copied_with_their_bodies_where_the_table_says_so(
    session_store: EmbeddedStore, tmp_path: Path
) -> None:
    lines = 'percent = 100\nmethods = ["POST", "DELETE"]'
    async with pair(session_store, tmp_path, lines) as found:
        bodies = [b'{"name":"flour"}', b"x" * room.MOST_BODY]
        for body in bodies:
            assert (await found.ask("POST", body=body)).status == 200
            await found.settled()
        await found.ask("POST")
        await found.ask("DELETE")
        await found.ask("GET")
        assert await found.settled() == {"same": 4}
        sent = [request.partition(b"\r\n\r\n") for request in found.mirror]
        assert [body for _, _, body in sent] == [*bodies, b"", b""]
        assert b"\r\ncontent-length: 0" in sent[2][0]
        assert b"\r\ncontent-length:" not in sent[3][0]
        assert found.mirroring.held == 0


async def test_a_longer_body_reaches_the_service_and_is_not_copied(
    session_store: EmbeddedStore, tmp_path: Path
) -> None:
    async with pair(session_store, tmp_path, 'percent = 100\nmethods = ["POST"]') as found:
        body = b"x" * (room.MOST_BODY + 1)
        assert (await found.ask("POST", body=body)).status == 200
        assert await found.settled() == {"body": 1}
        assert found.service[0].endswith(body)
        assert found.mirror == []
        # Of unknown length, as HTTP/2 has it.
        left = [b"y" * 40_000, b"y" * 40_000]
        assert await chunked(found, left) == 200
        assert await found.settled() == {"body": 2}
        assert found.mirroring.held == 0


async def chunked(found: Pair, parts: list[bytes]) -> int:
    """POST `parts` without a length; the status."""
    status = 0
    left = list(parts)
    scope = {
        "type": "http",
        "http_version": "2",
        "method": "POST",
        "scheme": "http",
        "raw_path": ITEMS.encode(),
        "query_string": b"",
        "headers": [(b"host", b"gateway.test"), (b"authorization", b"Bearer " + access_token())],
        "client": ("192.0.2.1", "4711"),
    }

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await found.gateway.gateway(scope, receive, send)
    return status


async def test_bodies_of_all_copies_together_are_bounded(
    session_store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST_BYTES", 100_000)
    held: list[int] = []

    async def hangs(peer: Peer) -> None:
        await peer.request()
        await asyncio.Event().wait()

    lines = 'percent = 100\nmethods = ["POST"]\ntimeout = 1'
    async with pair(session_store, tmp_path, lines, script=hangs) as found:
        for _ in range(4):
            assert (await found.ask("POST", body=b"x" * 40_000)).status == 200
            held.append(found.mirroring.held)
        assert held == [40_000, 80_000, 80_000, 80_000]
        assert await found.settled() == {"body": 2, "failed": 2}
        assert found.mirroring.held == 0


async def test_about_its_share_is_copied(session_store: EmbeddedStore, tmp_path: Path) -> None:
    async with pair(session_store, tmp_path, "percent = 30") as found:
        for _ in range(300):
            await found.ask()
        assert 50 < (await found.settled())["same"] < 130  # five deviations of a binomial distribution
    async with pair(session_store, tmp_path, "percent = 0") as found:
        await found.ask()
        assert await found.settled() == {}


async def test_what_is_answered_differently_is_counted(session_store: EmbeddedStore, tmp_path: Path) -> None:
    missing = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
    async with pair(session_store, tmp_path, script=answers([], missing)) as found:
        for _ in range(3):
            assert (await found.ask()).status == 200
        assert await found.settled() == {"different": 3}
        numbers = found.gateway.state.metrics.snapshot()
        assert numbers["gateway_mirror_requests_total"] == {("inventory", "different"): 3}
        assert numbers["gateway_mirror_differences_total"] == {("inventory", "200", "404"): 3}
        assert numbers["gateway_mirror_under_way"] == {("inventory",): 0}
        outcomes = numbers["gateway_upstream_requests_total"]
        assert outcomes["inventory-mirror", "4xx"] == outcomes["inventory", "2xx"] == 3
        (count,) = [numbers["gateway_upstream_response_seconds"]["inventory-mirror",]]
        assert isinstance(count, list)
        assert sum(count[1:]) == 3
        # A mirror that invents statuses makes no more series than this.
        for status in range(300, 600):
            found.mirroring._compare(200, status)
        assert len(families({"x": found.mirroring})["gateway_mirror_differences_total"]) == 101


async def test_what_the_service_did_not_answer_is_not_copied(
    session_store: EmbeddedStore, tmp_path: Path
) -> None:
    async def breaks_off(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with pair(session_store, tmp_path, service=breaks_off) as found:
        assert (await found.ask()).status == 502
        assert (await found.ask(target="/api/v1/inventory/../x")).status == 400
        assert await found.settled() == {}
        assert found.mirror == []


async def test_a_stream_has_no_copy(session_store: EmbeddedStore, tmp_path: Path) -> None:
    async with pair(session_store, tmp_path) as found:
        await found.ask(headers={"accept": "Text/Event-Stream"})
        await found.ask(headers={"accept": "*/*"})
        assert await found.settled() == {"same": 1}

    async def events(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream; charset=utf-8\r\n\r\ndata: 1\n\n"
        )

    async with pair(session_store, tmp_path, service=events) as found:
        assert (await found.ask()).body == b"data: 1\n\n"
        assert await by_lane(found.gateway, ITEMS, access_token()) == (None, b"data: 1\n\n")
        assert await found.settled() == {}


async def refused_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


async def test_a_mirror_that_refuses_harms_no_request(session_store: EmbeddedStore, tmp_path: Path) -> None:
    async with pair(session_store, tmp_path, url=await refused_url()) as found:
        for _ in range(20):
            assert (await found.ask()).status == 200
            await found.settled()
        assert await found.settled() == {"failed": 20}
        state = found.gateway.state
        outcomes = dict(state.metrics.upstream("inventory-mirror").outcomes)
        # Its breaker spares the gateway the attempts.
        assert outcomes == {"upstream-connect": 5, "upstream-open": 15}
        assert state.upstreams["inventory-mirror"].breaker_state == "open"
        assert state.upstreams["inventory"].breaker_state == "closed"


async def test_a_mirror_that_hangs_has_a_bounded_number_of_copies_for_a_bounded_time(
    session_store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST_UNDER_WAY", 10)
    connections = 0

    async def hangs(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await asyncio.Event().wait()

    async with pair(session_store, tmp_path, "percent = 100\ntimeout = 2", script=hangs) as found:
        began = time.monotonic()
        for _ in range(50):
            assert (await found.ask()).status == 200
        # 50 requests did not wait for one copy's two seconds.
        assert found.mirroring.under_way == 10
        assert found.results == {"busy": 40}
        assert await found.settled() == {"busy": 40, "failed": 10}
        assert time.monotonic() - began < 30
        assert connections <= 11  # with one of the breaker's own questions
        snapshot = found.gateway.state.upstreams["inventory-mirror"].snapshot()
        assert (snapshot["active"], snapshot["waiting"]) == (0, 0)


@pytest.mark.parametrize("head", ["length", "chunked", "endless-head"])
async def test_a_mirror_that_floods_is_cut_off_and_costs_no_memory(
    session_store: EmbeddedStore, tmp_path: Path, head: str
) -> None:
    sent = 0
    part = b"x" * 65536
    start, framed = {
        "length": (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", part),
        "chunked": (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"10000\r\n" + part + b"\r\n",
        ),
        "endless-head": (b"HTTP/1.1 200 OK\r\n", b"x-flood: " + b"x" * 1000 + b"\r\n"),
    }[head]

    async def floods(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(start)
        while True:
            peer.writer.write(framed)
            await peer.writer.drain()
            sent += len(framed)

    async with pair(session_store, tmp_path, "percent = 100\ntimeout = 5", script=floods) as found:
        await found.ask()
        await found.settled()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(30):
                assert (await found.ask()).status == 200
            results = await found.settled()
            most = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        assert results == ({"failed": 31} if head == "endless-head" else {"same": 31})
        # 31 answers without end: of each no more was taken than the bound, and what the kernel holds.
        assert sent < 31 * 8 * room.MOST_ANSWER
        # 30 at once: each may hold what its connection buffers, 64 KiB and one read.
        assert most < 30 * 512 * 1024, most
        assert found.gateway.state.upstreams["inventory-mirror"].snapshot()["active"] == 0


async def test_a_mirror_that_trickles_is_cut_off_in_time(
    session_store: EmbeddedStore, tmp_path: Path
) -> None:
    async def trickles(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 201 Created\r\ncontent-length: 1000000\r\n\r\n")
        while True:
            await peer.send(b"x")
            await asyncio.sleep(0.01)

    async with pair(session_store, tmp_path, "percent = 100\ntimeout = 0.5", script=trickles) as found:
        began = time.monotonic()
        assert (await found.ask()).status == 200
        assert await found.settled() == {"different": 1}
        assert 0.4 < time.monotonic() - began < 8


async def test_a_mirror_without_listening_room_does_not_hold_copies_longer(
    session_store: EmbeddedStore, tmp_path: Path
) -> None:
    """Its connections are neither accepted nor refused: its backlog is full."""
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            caller = sockets.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with pair(session_store, tmp_path, "percent = 100\ntimeout = 0.3", url=url) as found:
            began = time.monotonic()
            assert (await found.ask()).status == 200
            assert found.mirroring.under_way == 1
            assert await found.settled() == {"failed": 1}
            assert time.monotonic() - began < 2.5  # CONNECT_TIMEOUT_SECONDS is 3
            outcomes = found.gateway.state.metrics.upstream("inventory-mirror").outcomes
            assert outcomes == {"upstream-connect-timeout": 1}


async def test_a_stale_connection_costs_no_copy(session_store: EmbeddedStore, tmp_path: Path) -> None:
    async def closes(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)

    async with pair(session_store, tmp_path, script=closes) as found:
        for _ in range(10):
            await found.ask()
            await found.settled()
        assert found.results == {"same": 10}


async def test_the_end_of_a_worker_waits_for_no_copy(session_store: EmbeddedStore, tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def hangs(peer: Peer) -> None:
        await peer.request()
        await peer.gone()
        gone.set()

    async with pair(session_store, tmp_path, "percent = 100\ntimeout = 60", script=hangs) as found:
        assert (await found.ask()).status == 200
        mirroring = found.mirroring
        assert mirroring.under_way == 1
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert mirroring.under_way == 0


async def test_a_canarys_requests_are_not_copied(session_store: EmbeddedStore, tmp_path: Path) -> None:
    """What the mirror is compared with is the service."""
    async with scripted(answers([])) as canary:
        more = f'[services.inventory.canary]\nurl = "{canary.url}"\npercent = 0\nheader = "x-canary"\n'
        async with pair(session_store, tmp_path, more=more) as found:
            await found.ask(headers={"x-canary": "always"})
            await found.ask(headers={"x-canary": "never"})
            assert await found.settled() == {"same": 1}
            assert len(found.service) == len(found.mirror) == 1
            assert not re.search(rb"x.canary", found.mirror[0])
