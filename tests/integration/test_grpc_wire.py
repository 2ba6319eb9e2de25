"""What comes back from who speaks HTTP/2, but no gRPC or only half of it (PROTOCOL-HTTP2.md), by scripted frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded

from kernel.server.embedded_store import EmbeddedStore
from tests.support.grpc_service import configured
from tests.support.inprocess import local_gateway
from tests.support.tokens import access_token

Headers = list[tuple[str, str]]
GRPC: Headers = [(":status", "200"), ("content-type", "application/grpc")]
OVEN = b"\0\0\0\0\x03\x0a\x01x"


class Script(NamedTuple):
    """An answer: a head, data, trailers; or a reset instead. None ends the stream there."""

    head: Headers
    data: bytes | None = None
    trailers: Headers | None = None
    reset: int | None = None


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[int]:
    """The port of a server that answers every stream by `script`."""
    open_ones: set[asyncio.StreamWriter] = set()

    def answer(connection: H2Connection, stream: int) -> None:
        if script.reset is not None:
            connection.reset_stream(stream, script.reset)
            return
        connection.send_headers(
            stream, script.head, end_stream=script.data is None and script.trailers is None
        )
        if script.data is not None:
            connection.send_data(stream, script.data, end_stream=script.trailers is None)
        if script.trailers is not None:
            connection.send_headers(stream, script.trailers, end_stream=True)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        connection = H2Connection(H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, StreamEnded) and event.stream_id is not None:
                    answer(connection, event.stream_id)
            writer.write(connection.data_to_send())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for writer in open_ones:
            writer.close()


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (Script(GRPC, OVEN, [("grpc-status", "0")]), 200, ""),
        (Script([(":status", "404"), ("content-type", "text/html")], b"<p>"), 502, "upstream-protocol"),
        (Script([(":status", "503"), ("content-type", "text/html")]), 502, "upstream-protocol"),
        (Script([(":status", "200"), ("content-type", "text/html")], b"<p>"), 502, "upstream-protocol"),
        (Script(GRPC, OVEN), 502, "upstream-protocol"),
        (Script(GRPC, OVEN, [("x", "y")]), 502, "upstream-protocol"),
        (Script(GRPC, None, [("grpc-status", "0")]), 502, "upstream-protocol"),
        (Script(GRPC, b"\0\0\0\0\xff", [("grpc-status", "0")]), 502, "upstream-protocol"),
        (Script(GRPC, b"\0\0\0\0\x02\xff\xff", [("grpc-status", "0")]), 502, "upstream-protocol"),
        (Script(GRPC, reset=2), 502, "upstream-reset"),
        (Script(GRPC, reset=7), 502, "upstream-reset"),
        (Script(GRPC, reset=8), 502, "upstream-reset"),
        (Script([*GRPC, ("grpc-status", "5"), ("grpc-message", "no%20oven%0A")]), 404, "grpc-not-found"),
        (Script(GRPC, None, [("grpc-status", "14"), ("grpc-message", "mine")]), 503, "grpc-unavailable"),
        (Script(GRPC, None, [("grpc-status", "77"), ("grpc-message", "mine")]), 500, "grpc-unknown"),
        (Script(GRPC, None, [("grpc-status", "13")]), 500, "grpc-internal"),
        (
            Script(GRPC, None, [("grpc-status", "3"), ("grpc-status-details-bin", "AAAA")]),
            400,
            "grpc-invalid-argument",
        ),
    ],
)
async def test_answers(
    script: Script,
    status: int,
    code: str,
    store_server: EmbeddedStore,
    redis_cli: redis.Redis,
    tmp_path: Path,
) -> None:
    async with scripted(script) as port:
        environment = configured(tmp_path, f"grpc://127.0.0.1:{port}")
        async with local_gateway(store_server.url, tmp_path, (), None, **environment) as gateway:
            reply = await gateway.ask("POST", "/api/v1/ovens/7:heat", access_token(), b"{}")
            assert (reply.status, reply.code) == (status, code), reply.document
            assert b"127.0.0.1" not in reply.body
