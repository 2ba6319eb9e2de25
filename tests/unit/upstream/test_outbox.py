from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from kernel.upstream.fast_response import FastResponseReader
from kernel.upstream.http1 import NEVER, Connection, Outbox
from kernel.upstream.parts import Parts
from kernel.upstream.response import UNSENT
from kernel.upstream.response_headers import ResponseHeaders


class Wire:
    """A transport that notes what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self._sockets = socket.socketpair()

    def get_extra_info(self, name: str) -> Any:
        return self._sockets[0] if name == "socket" else None

    def come(self, data: bytes) -> None:
        """Into the kernel's buffer: no loop reads from there."""
        self._sockets[1].send(data)

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        for end in self._sockets:
            end.close()


def connected(outbox: Outbox) -> tuple[Connection, Wire]:
    reader = FastResponseReader(ResponseHeaders())
    connection = Connection(asyncio.get_running_loop(), reader, outbox, Parts())
    wire = Wire()
    connection.connection_made(cast("Any", wire))
    return connection, wire


async def test_requests_of_one_turn_are_written_together_at_its_end() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    pairs = [connected(outbox) for _ in range(3)]
    for number, (connection, wire) in enumerate(pairs):
        connection.start(b"%d" % number, head_only=False, deadline=1e9)
        assert wire.written == []
    await asyncio.sleep(0)
    assert [wire.written for _, wire in pairs] == [[b"0"], [b"1"], [b"2"]]
    pairs[0][0].start(b"again", head_only=False, deadline=1e9)
    await asyncio.sleep(0)
    assert pairs[0][1].written == [b"0", b"again"]
    for connection, _ in pairs:
        connection.abort()


async def test_nothing_is_written_to_a_connection_that_was_closed_in_the_meantime() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    (one, gone), (other, _) = connected(outbox), connected(outbox)
    one.start(b"request", head_only=False, deadline=1e9)
    one.abort()
    await asyncio.sleep(0)
    assert gone.written == []
    other.abort()


@pytest.mark.parametrize("deadline", [1e9, NEVER], ids=["by the outbox", "at once"])
async def test_what_came_before_the_write_keeps_the_request_from_being_written(deadline: float) -> None:
    connection, wire = connected(Outbox(asyncio.get_running_loop()))
    wire.come(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
    await connection.start(b"request", head_only=False, deadline=deadline)
    assert wire.written == []
    assert (connection.stage, connection.closed) == (UNSENT, True)
    assert connection.error is not None


async def test_what_is_read_before_the_write_is_no_answer() -> None:
    connection, wire = connected(Outbox(asyncio.get_running_loop()))
    answered = connection.start(b"request", head_only=False, deadline=1e9)
    connection.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    await answered
    await asyncio.sleep(0)
    assert wire.written == []
    assert (connection.stage, connection.status, connection.closed) == (UNSENT, 0, True)
