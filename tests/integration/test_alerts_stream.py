"""Alerts from a service's PUBLISH to an event stream of the real gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis

from kernel.store.embedded import EmbeddedStore
from tests.support.eventstream import EventSource
from tests.support.raw import Reply
from tests.support.stack import Stack
from tests.support.tokens import OTHER_TENANT, TENANT, service_token

STREAM = "/api/v1/alerts/stream"


class Publisher:
    """A service that publishes numbered alerts."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.count = 0

    def alert(self, tenant: str = TENANT, **changes: object) -> str:
        self.count += 1
        name = f"alert-{self.count}"
        document = {
            "alert_id": name,
            "severity": "high",
            "message": "Stock bajo: Mantequilla 82 % m.g.",
            "timestamp": "2026-01-05T06:00:00Z",
            **changes,
        }
        self.client.publish(f"alerts:tenant:{tenant}", json.dumps(document))
        return name

    def raw(self, data: bytes, tenant: str = TENANT) -> None:
        self.client.publish(f"alerts:tenant:{tenant}", data)


@pytest.fixture
def publisher(session_store: EmbeddedStore) -> Iterator[Publisher]:
    publisher = Publisher(session_store.url)
    publisher.client.flushall()
    yield publisher
    publisher.client.close()


def ids(source: EventSource, count: int) -> list[str]:
    return [message.json["alert_id"] for message in source.take(count)]


def refusal(stack: Stack, target: str, **options: object) -> Reply:
    reply = stack.ask(target=target.encode(), **options)  # type: ignore[arg-type]
    assert reply.status >= 400
    return reply


def test_an_alert_reaches_an_open_stream(stack: Stack, publisher: Publisher) -> None:
    with EventSource(stack.port) as source:
        assert source.status == 200
        assert source.headers["content-type"] == "text/event-stream"
        assert "no-cache" in source.headers["cache-control"]
        assert source.headers["x-accel-buffering"] == "no"
        assert "x-request-id" in source.headers
        source.ready()
        assert source.parser.retry
        assert source.parser.comments
        publisher.alert(type="stock")
        message = source.next()
        assert message.event == "alert"
        assert message.id
        assert message.json == {
            "alert_id": "alert-1",
            "severity": "high",
            "message": "Stock bajo: Mantequilla 82 % m.g.",
            "timestamp": "2026-01-05T06:00:00Z",
            "type": "stock",
        }


def test_alerts_published_while_nobody_listens_are_replayed(stack: Stack, publisher: Publisher) -> None:
    with EventSource(stack.port) as source:
        source.ready()
        known = source.last_id
    expected = [publisher.alert() for _ in range(200)]
    with EventSource(stack.port, last_id=known) as source:
        assert ids(source, 200) == expected
        assert publisher.alert() == source.next().json["alert_id"]
    with EventSource(stack.port, f"{STREAM}?last_event_id={known}") as source:
        assert ids(source, 201) == [*expected, "alert-201"]
    with EventSource(stack.port, f"{STREAM}?last_event_id=0") as source:
        assert ids(source, 201) == [*expected, "alert-201"]


def test_an_alert_published_twice_is_one(stack: Stack, publisher: Publisher) -> None:
    with EventSource(stack.port) as source:
        source.ready()
        for _ in range(3):
            publisher.alert(alert_id="same")
        last = publisher.alert()
        assert ids(source, 2) == ["same", last]


def test_the_tenant_is_the_one_that_tenancy_decides(stack: Stack, publisher: Publisher) -> None:
    with (
        EventSource(stack.port, headers={"X-Tenant-ID": OTHER_TENANT}) as by_header,
        EventSource(stack.port, f"/api/v1/tenants/{OTHER_TENANT}/alerts/stream") as by_path,
        EventSource(stack.port) as own,
    ):
        for source in (by_header, by_path, own):
            source.ready()
        theirs, ours = publisher.alert(OTHER_TENANT), publisher.alert()
        assert ids(by_header, 1) == ids(by_path, 1) == [theirs]
        assert ids(own, 1) == [ours]
    assert refusal(stack, STREAM, headers=[(b"X-Tenant-ID", b"stranger")]).status == 403
    assert refusal(stack, STREAM, token=None).status == 401
    assert refusal(stack, STREAM, token=service_token()).status == 400
    with EventSource(stack.port, token=service_token(), headers={"X-Tenant-ID": TENANT}) as source:
        source.ready()
        assert publisher.alert() == source.next().json["alert_id"]


def test_other_methods_and_head(stack: Stack) -> None:
    reply = stack.ask("POST", STREAM.encode())
    assert reply.status == 405
    head = EventSource(stack.port, method="HEAD")
    assert head.status == 200
    assert head.headers["content-type"] == "text/event-stream"
    head.close()
