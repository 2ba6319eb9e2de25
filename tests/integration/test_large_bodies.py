"""Bodies far larger than what may be held, through the real gateway: its memory stays flat.

LARGE_BODY_MIB (default 200) is their size: 1024 for the whole gibibyte.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import GatewayFactory, GatewayProcess, free_port
from tests.support.stack import lone_env
from tests.support.tokens import access_token

MIB = 1024 * 1024
SIZE = int(os.environ.get("LARGE_BODY_MIB", "200")) * MIB
EXTRA = 16 * MIB
BLOCK = bytes(256 * 1024)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def gateway(gateway_factory: GatewayFactory, session_store: EmbeddedStore, port: int) -> GatewayProcess:
    return gateway_factory(lone_env(port, session_store, MAX_BODY_BYTES="2GiB"))


def peak(gateway: GatewayProcess) -> int:
    """The most memory the worker has ever had, in bytes."""
    found = subprocess.run(
        ["pgrep", "-P", str(gateway.process.pid)], capture_output=True, text=True, check=True
    )
    peaks = []
    for pid in found.stdout.split():
        status = Path(f"/proc/{pid}/status").read_text()
        if (
            "granian" in Path(f"/proc/{pid}/cmdline").read_text()
            or "kernel" in Path(f"/proc/{pid}/cmdline").read_text()
        ):
            peaks.append(int(status.split("VmHWM:")[1].split()[0]) * 1024)
    return max(peaks)


async def take(reader: asyncio.StreamReader, size: int, pause: float) -> int:
    left = size
    while left:
        data = await reader.read(min(left, MIB))
        if not data:
            break
        left -= len(data)
        if pause and (size - left) % (16 * MIB) < len(data):
            await asyncio.sleep(pause)
    return size - left


async def give(writer: asyncio.StreamWriter, size: int, chunked: bool) -> None:
    for _ in range(size // len(BLOCK)):
        writer.write(b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK)
        await writer.drain()
    if chunked:
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def take_chunks(reader: asyncio.StreamReader) -> int:
    size = 0
    while part := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(part + 2)
        size += part
    await reader.readexactly(2)
    return size


class Service:
    """Takes uploads and gives downloads, as large as `SIZE`; `pause` seconds every 16 MiB."""

    def __init__(self) -> None:
        self.got = 0
        self.pause = 0.0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if head.startswith(b"post"):
                if b"chunked" in head:
                    self.got = await take_chunks(reader)
                else:
                    self.got = await take(reader, SIZE, self.pause)
                writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
            elif b"/chunked" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")
                await give(writer, SIZE, True)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % SIZE)
                await give(writer, SIZE, False)
            await writer.drain()
        finally:
            writer.close()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("slow", [False, True], ids=["fast", "slow"])
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_memory_stays_flat(
    gateway: GatewayProcess, port: int, direction: str, slow: bool, chunked: bool
) -> None:
    service = Service()
    pause = 0.02 if slow else 0.0
    before = peak(gateway)
    server = await asyncio.start_server(service, "127.0.0.1", port, limit=MIB)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=MIB)
    target = b"/api/v1/inventory/" + (b"chunked" if chunked else b"length")
    head = b" HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %b\r\n" % access_token()
    try:
        if direction == "up":
            service.pause = pause
            framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % SIZE
            writer.write(b"POST " + target + head + framing + b"\r\n\r\n")
            await give(writer, SIZE, chunked)
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            assert service.got == SIZE
        else:
            writer.write(b"GET " + target + head + b"\r\n")
            got = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert got.startswith(b"http/1.1 200")
            size = await (take_chunks(reader) if b"chunked" in got else take(reader, SIZE, pause))
            assert size == SIZE
    finally:
        writer.close()
        server.close()
        await server.wait_closed()
    assert peak(gateway) - before < EXTRA
