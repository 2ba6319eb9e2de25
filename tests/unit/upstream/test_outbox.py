from __future__ import annotations

import asyncio
from typing import Any, cast

from kernel.upstream.fast_response import FastResponseReader
from kernel.upstream.http1 import Connection, Outbox
from kernel.upstream.response_headers import ResponseHeaders


class Wire:
    """A transport that notes what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        pass


def connected(outbox: Outbox) -> tuple[Connection, Wire]:
    connection = Connection(asyncio.get_running_loop(), FastResponseReader(ResponseHeaders()), outbox)
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


async def test_nothing_is_written_to_a_connection_that_was_closed_in_the_meantime() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    (one, gone), (_, _) = connected(outbox), connected(outbox)
    one.start(b"request", head_only=False, deadline=1e9)
    one.abort()
    await asyncio.sleep(0)
    assert gone.written == []
