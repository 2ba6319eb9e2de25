"""HTTP/2 clients (prior knowledge, as a load balancer speaks it) get what HTTP/1.1 clients get."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import redis
from h2.connection import H2Connection
from h2.events import DataReceived

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess, free_port
from tests.support.poll import poll
from tests.support.stack import lone_env
from tests.support.tokens import access_token

MIB = 1024 * 1024


class Service:
    """Echoes bodies, streams, and notes what becomes of its connections."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.open = 0
        self.writers: set[asyncio.StreamWriter] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b" /health " not in head:  # the gateway's own probes come when they like
                    self.seen.append(head)
                body = b""
                if b"transfer-encoding: chunked" in head:
                    while size := int(await reader.readuntil(b"\r\n"), 16):
                        body += (await reader.readexactly(size + 2))[:-2]
                    await reader.readexactly(2)
                elif b"content-length: " in head:
                    body = await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
                if b"/endless" in head:
                    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                    while True:
                        writer.write(b"1000\r\n" + bytes(4096) + b"\r\n")
                        await writer.drain()
                        await asyncio.sleep(0.001)
                if b"/broken" in head:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
                    await writer.drain()
                    return
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.open -= 1
            self.writers.discard(writer)
            writer.close()


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(gateway_factory: GatewayFactory, session_store: EmbeddedStore, port: int) -> GatewayProcess:
    return gateway_factory(
        lone_env(port, session_store, HTTP2="true", CORS_ORIGINS="https://app.example.com")
    )


@pytest.fixture
async def service(port: int) -> AsyncIterator[Service]:
    made = Service()
    async with await asyncio.start_server(made, "127.0.0.1", port):
        yield made
        # Since Python 3.12 a server waits for its connections, and the gateway keeps them.
        for writer in made.writers:
            writer.close()


def client(gateway: GatewayProcess) -> httpx.AsyncClient:
    headers = {"authorization": "Bearer " + access_token().decode()}
    return httpx.AsyncClient(
        http1=False, http2=True, base_url=gateway.url, headers=headers, timeout=5, trust_env=False
    )


async def until_closed(service: Service) -> None:
    async with asyncio.timeout(5):
        while service.open:
            await asyncio.sleep(0.01)


async def test_requests_at_once_share_a_connection(gateway: GatewayProcess, service: Service) -> None:
    async with client(gateway) as http:
        bodies = [bytes([number]) * number * 10 for number in range(40)]
        answers = await asyncio.gather(*(http.post("/api/v1/orders", content=body) for body in bodies))
        assert [answer.http_version for answer in answers] == ["HTTP/2"] * 40
        assert [answer.content for answer in answers] == bodies
        assert len({answer.headers["x-request-id"] for answer in answers}) == 40
    assert all(head.startswith(b"POST /api/v1/orders HTTP/1.1\r\n") for head in service.seen)


async def test_bodies_stream_both_ways(gateway: GatewayProcess, service: Service) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(64 * 1024)

    async with client(gateway) as http:
        assert len((await http.put("/api/v1/orders/1", content=bytes(4 * MIB))).content) == 4 * MIB
        assert len((await http.put("/api/v1/orders/1", content=parts())).content) == 4 * MIB


async def test_problems_are_the_same(gateway: GatewayProcess) -> None:
    async with client(gateway) as http:
        http.headers["origin"] = "https://app.example.com"
        answer = await http.get("/nowhere")
        assert (answer.status_code, answer.json()["code"]) == (404, "route-unknown")
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        answer = await http.get("/api/v1/orders", headers={"authorization": "Bearer x"})
        assert (answer.status_code, answer.json()["code"]) == (401, "token-malformed")


class Raw:
    """One connection, stream by stream: httpx does not reset what it no longer wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h2 = H2Connection()
        self._h2.initiate_connection()
        self.body = b""

    def get(self, target: str, token: bytes) -> int:
        """Ask; the stream's id."""
        stream: int = self._h2.get_next_available_stream_id()
        head = [(":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", target)]
        self._h2.send_headers(stream, [*head, ("authorization", "Bearer " + token.decode())], end_stream=True)
        self._writer.write(self._h2.data_to_send())
        return stream

    async def until(self, marker: bytes) -> None:
        """Read until the body has `marker`."""
        async with asyncio.timeout(5):
            while marker not in self.body:
                for event in self._h2.receive_data(await self._reader.read(65536)):
                    if isinstance(event, DataReceived):
                        self.body += event.data
                        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self._writer.write(self._h2.data_to_send())

    def reset(self, stream: int) -> None:
        """Want no more of a stream."""
        self._h2.reset_stream(stream)
        self._writer.write(self._h2.data_to_send())


@contextlib.asynccontextmanager
async def raw(gateway: GatewayProcess) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


async def test_a_stream_that_is_reset_ends_the_request_to_the_service(
    gateway: GatewayProcess, service: Service
) -> None:
    async with raw(gateway) as connection:
        stream = connection.get("/api/v1/orders/endless", access_token())
        await connection.until(bytes(10_000))
        connection.reset(stream)
        await until_closed(service)
        # The connection lives.
        connection.body = b""
        connection.get("/health", access_token())
        await connection.until(b"status")


async def test_a_response_that_breaks_off_is_no_whole_one(gateway: GatewayProcess, service: Service) -> None:
    async with client(gateway) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get("/api/v1/orders/broken")
        assert (await http.get("/api/v1/orders")).status_code == 200


def metric(gateway: GatewayProcess, name: str) -> float:
    text = httpx.get(f"{gateway.url}/metrics", trust_env=False).text
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(name))


@pytest.mark.parametrize("leaves", ["stream", "connection"])
async def test_alerts_stream_until_the_client_leaves(
    gateway: GatewayProcess, redis_cli: redis.Redis, leaves: str
) -> None:
    tenant = f"tenant-http2-{leaves}"
    async with raw(gateway) as connection:
        stream = connection.get("/api/v1/alerts/stream", access_token(tenant_id=tenant))
        await connection.until(b"retry:")
        alert = {"alert_id": leaves, "severity": "high", "message": "x", "timestamp": "2026-11-23T05:00:00Z"}
        redis_cli.publish(f"alerts:tenant:{tenant}", json.dumps(alert))
        await connection.until(b'"alert_id":')
        if leaves == "stream":
            connection.reset(stream)
            await asyncio.to_thread(poll, lambda: not metric(gateway, "gateway_sse_streams "))
    await asyncio.to_thread(poll, lambda: not metric(gateway, "gateway_sse_streams "))


def test_without_http2_its_clients_are_turned_away(
    gateway_factory: GatewayFactory, session_store: EmbeddedStore
) -> None:
    url = gateway_factory(lone_env(free_port(), session_store)).url
    with httpx.Client(base_url=url, trust_env=False) as one:
        assert one.get("/health").http_version == "HTTP/1.1"
    with (
        httpx.Client(base_url=url, http1=False, http2=True, trust_env=False) as two,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        two.get("/health")
