"""Alerts as large as they may be: live, replayed, and the last one before a reconnection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.eventstream import EventSource
from tests.support.gateway import GatewayFactory
from tests.support.publisher import Publisher
from tests.support.recorder import Recorder
from tests.support.stack import Stack, stack_env

MOST = 1024 * 1024


@pytest.fixture(scope="module")
def stack(gateway_factory: GatewayFactory, upstream: Recorder, session_store: EmbeddedStore) -> Stack:
    env = stack_env(upstream, session_store, ALERTS_MAX_BYTES=str(MOST))
    return Stack(gateway_factory(env), upstream)


@pytest.fixture
def publisher(session_store: EmbeddedStore) -> Iterator[Publisher]:
    publisher = Publisher(session_store.url)
    publisher.client.flushall()
    yield publisher
    publisher.client.close()


@pytest.mark.parametrize("size", [65_000, 65_536 - 150, 65_536, 70_000, MOST - 200])
def test_an_alert_of_any_allowed_size_reaches_streams_and_those_that_resume(
    stack: Stack, publisher: Publisher, size: int
) -> None:
    with EventSource(stack.port) as source:
        source.ready()
        start = source.last_id
        name = publisher.alert(filler="x" * size)
        assert source.next().json["alert_id"] == name
        assert publisher.alert() == source.next().json["alert_id"]
        last = publisher.alert(filler="y" * size)
        assert source.next().json["alert_id"] == last
    # Some connect again while it is the newest.
    with EventSource(stack.port, last_id=start) as source:
        assert [message.json["alert_id"] for message in source.take(3)] == [name, "alert-2", last]
        assert publisher.alert() == source.next().json["alert_id"]
    assert "unhandled error" not in stack.gateway.log()
