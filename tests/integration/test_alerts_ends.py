"""A stream that the gateway has ended is over, whether its client reads or not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kernel.alerts.client import ALL, LINGER
from kernel.server.embedded_store import EmbeddedStore
from kernel.store.alertlog import Page, Position
from tests.support.alerts import alert_worker
from tests.support.eventstream import EventSource
from tests.support.gateway import GatewayFactory
from tests.support.poll import poll
from tests.support.publisher import Publisher
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env
from tests.support.store import until
from tests.support.tokens import access_token


@pytest.fixture(scope="module")
def stack(gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore) -> Stack:
    # None is slow: what ends a stream here is something else.
    unbounded = {"ALERTS_QUEUE_EVENTS": "100000", "ALERTS_QUEUE_BYTES": "100MiB"}
    return Stack(gateway_factory(stack_env(upstream, session_store, **unbounded)), upstream)


@pytest.fixture
def publisher(session_store: EmbeddedStore) -> Iterator[Publisher]:
    publisher = Publisher(session_store.url)
    publisher.client.flushall()
    yield publisher
    publisher.client.close()


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_nothing_of_it_waits_for_a_client_that_does_not_read(
    stack: Stack, publisher: Publisher, how: str
) -> None:
    claims: dict[str, Any] = {"jti": "j-stuck"}
    if how == "expired":
        claims["exp"] = time.time() + 3
    with EventSource(stack.port, token=access_token(**claims)) as stuck, EventSource(stack.port) as other:
        stuck.ready()
        other.ready()

        def line() -> str:
            request = f'"request_id":"{stuck.headers["x-request-id"]}"'
            return next((each for each in stack.gateway.log().splitlines() if request in each), "")

        # More than all the buffers on the way hold.
        for _ in range(200):
            publisher.alert(padding="x" * 60_000)
            other.next()
        if how == "revoked":
            assert not line()
            publisher.client.set("token:revoked:j-stuck", "1")
        assert json.loads(poll(line))["problem"] == "stream-slow"
        assert publisher.alert() == other.next().json["alert_id"]
    publisher.client.delete("token:revoked:j-stuck")


async def test_it_waits_for_no_read_of_the_store_either(store_server: EmbeddedStore) -> None:
    async with alert_worker(store_server.url) as worker:
        reading = asyncio.Event()

        async def hanging(tenant: str, known: Position | None, count: int) -> Page:
            reading.set()
            await asyncio.Event().wait()
            raise AssertionError

        worker._fanout.log.read = hanging  # type: ignore[method-assign]
        client = worker.open("t", None, ALL)
        assert client is not None

        async def write(chunk: bytes) -> None:
            raise AssertionError("nothing can be written")

        task = asyncio.get_running_loop().create_task(client.run(write))
        await reading.wait()
        client.expire("token-expired")
        await until(task.done, LINGER + 5)
        assert task.result() is False
        worker.close_stream(client)
        assert worker.numbers.closed == {"auth": 1}
