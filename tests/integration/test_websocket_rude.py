"""WebSocket clients that the server alone would not cope with: unfinished messages, pings and nothing else, late words."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
import time
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection

from kernel.server.embedded_store import EmbeddedStore
from tests.integration.test_websocket import PATH, echo, opened, resident, service
from tests.support.gateway import GatewayFactory, GatewayProcess, free_port
from tests.support.stack import lone_env
from tests.support.tokens import access_token

IDLE = 2.0
LIMIT = 4 * 1024 * 1024
MIB = 1024 * 1024
CONTINUATION, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(gateway_factory: GatewayFactory, session_store: EmbeddedStore, port: int) -> GatewayProcess:
    return gateway_factory(lone_env(port, session_store, WEBSOCKET_IDLE_TIMEOUT_SECONDS=str(IDLE)))


def frame(kind: int, payload: bytes, *, final: bool = True, announced: int | None = None) -> bytes:
    """A client's frame, masked with zeros; `announced` is a length that it does not have."""
    size = len(payload) if announced is None else announced
    head = bytes([kind | (0x80 if final else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack("!Q", size)
    return head + bytes(4) + payload


class Client:
    """A raw one, whose frames are read until the connection ends."""

    def __init__(self, gateway: GatewayProcess, *, buffer: int = 0) -> None:
        self.link = socket.socket()
        if buffer:
            self.link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.link.settimeout(20)
        self.link.connect(("127.0.0.1", gateway.port))
        key = base64.b64encode(os.urandom(16))
        self.link.sendall(
            b"GET %b HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: %b\r\nAuthorization: Bearer %b\r\n\r\n"
            % (PATH.encode(), key, access_token())
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            part = self.link.recv(1)
            assert part
            head += part
        assert head.startswith(b"HTTP/1.1 101 "), head

    def send(self, data: bytes) -> None:
        self.link.sendall(data)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.link.recv(min(size - len(data), 65536))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def frame(self) -> tuple[int, bytes]:
        """The kind and payload of the next one; EOFError and ConnectionError at the end."""
        kind, size = self._exactly(2)
        if size == 126:
            size = struct.unpack("!H", self._exactly(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self._exactly(8))[0]
        return kind & 15, self._exactly(size)

    def rest(self) -> tuple[int, int, bool]:
        """Messages until the close frame, its code (0: none came), and whether the connection ended without a reset."""
        messages, code = 0, 0
        try:
            while True:
                kind, payload = self.frame()
                if kind == CLOSE:
                    code = int.from_bytes(payload[:2], "big")
                    self.send(frame(CLOSE, payload[:2]))
                elif kind in {TEXT, BINARY}:
                    messages += 1
        except EOFError:
            return messages, code, True
        except OSError:
            return messages, code, False
        finally:
            self.link.close()


LATE_WORDS = {
    "nothing": b"",
    "a message": frame(TEXT, b"one more"),
    "a ping": frame(PING, b"still there?"),
    "much": frame(BINARY, bytes(300_000)),
}


@pytest.mark.parametrize("late", LATE_WORDS)
async def test_all_that_a_service_says_before_it_closes_arrives(
    gateway: GatewayProcess, port: int, late: str
) -> None:
    async def farewell(connection: ServerConnection) -> None:
        await connection.recv()
        for _ in range(30):
            await connection.send(bytes(65536))
        await connection.close(4002, "bye")

    def one() -> tuple[int, int, bool]:
        client = Client(gateway, buffer=65536)
        client.send(frame(TEXT, b"go"))
        seen = 0
        while seen < 2:  # it is under way
            seen += client.frame()[0] in {TEXT, BINARY}
        time.sleep(0.05)  # the service has closed by now, and the client does not know
        client.send(LATE_WORDS[late])
        messages, code, clean = client.rest()
        return seen + messages, code, clean

    async with service(port, farewell):
        for _ in range(8):
            assert await asyncio.to_thread(one) == (30, 4002, True)


def unfinished(client: Client, kind: str) -> None:
    """60 MiB of a message that does not end, or as much of it as is taken."""
    try:
        if kind == "fragments":
            client.send(frame(BINARY, bytes(MIB), final=False))
            for _ in range(59):
                client.send(frame(CONTINUATION, bytes(MIB), final=False))
        else:
            client.send(frame(BINARY, bytes(15 * MIB - 1), announced=15 * MIB))
    except OSError:
        pass


@pytest.mark.parametrize("kind", ["fragments", "one frame"])
async def test_a_message_that_does_not_end_is_cut_at_the_limit(
    gateway: GatewayProcess, port: int, kind: str
) -> None:
    most = 0

    def one() -> int:
        client = Client(gateway)
        unfinished(client, kind)
        return client.rest()[1]

    async def look() -> None:
        nonlocal most
        while True:
            most = max(most, resident(gateway))
            await asyncio.sleep(0.01)

    async with service(port, echo):
        before = resident(gateway)
        looking = asyncio.create_task(look())
        codes = await asyncio.gather(*(asyncio.to_thread(one) for _ in range(10)))
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    assert codes == [1009] * 10
    # Ten times the limit and what is read ahead, and what came between two looks; it was 630 MiB.
    assert most - before < 300 * MIB, (most - before) / MIB


async def test_a_message_just_below_the_limit_passes_in_many_fragments(
    gateway: GatewayProcess, port: int
) -> None:
    async with service(port, echo), opened(gateway) as client:
        for _ in range(3):
            await client.send([bytes(1024)] * (LIMIT // 1024))
            assert len(await client.recv()) == LIMIT


async def test_a_flood_of_messages_is_none_too_large(gateway: GatewayProcess, port: int) -> None:
    async def count(connection: ServerConnection) -> None:
        for _ in range(200):
            await connection.recv()
        await connection.send("all")

    async with service(port, count), opened(gateway) as client:
        for _ in range(200):
            await client.send(bytes(MIB))
        assert await client.recv() == "all"


async def test_pings_keep_a_socket(gateway: GatewayProcess, port: int) -> None:
    async with service(port, echo), opened(gateway, ping_interval=None) as client:
        end = time.monotonic() + 2.5 * IDLE
        while time.monotonic() < end:
            await client.ping()
            await asyncio.sleep(IDLE / 8)
        await client.send("still here")
        assert await client.recv() == "still here"


async def test_the_beginning_of_a_message_does_not_keep_a_socket(gateway: GatewayProcess, port: int) -> None:
    def trickle() -> tuple[float, int]:
        client = Client(gateway)
        client.send(frame(BINARY, bytes(100_000), final=False))
        began = time.monotonic()
        client.link.settimeout(IDLE / 8)
        while time.monotonic() < began + 8 * IDLE:
            client.send(frame(CONTINUATION, b"x", final=False))
            try:
                kind, payload = client.frame()
            except TimeoutError:
                continue
            if kind == CLOSE:
                client.link.close()
                return time.monotonic() - began, int.from_bytes(payload[:2], "big")
        raise AssertionError("it is still open")

    async with service(port, echo):
        lasted, code = await asyncio.to_thread(trickle)
    assert code == 1001
    assert lasted < 6 * IDLE


async def test_the_copies_of_descriptors_are_given_back(gateway: GatewayProcess, port: int) -> None:
    def files() -> int:
        parent = gateway.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return max(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in children)

    async with service(port, echo):
        async with opened(gateway):
            pass
        before = files()
        for _ in range(20):
            async with opened(gateway) as client:
                await client.send("x")
                await client.recv()
        async with asyncio.timeout(10):
            while files() > before + 3:
                await asyncio.sleep(0.05)
