"""Alerts from a service's PUBLISH to an event stream of the real gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from kernel.server.embedded_store import EmbeddedStore
from tests.support.eventstream import EventSource
from tests.support.poll import poll
from tests.support.publisher import Publisher
from tests.support.raw import Reply
from tests.support.stack import Stack
from tests.support.tokens import OTHER_TENANT, TENANT, access_token, service_token

STREAM = "/api/v1/alerts/stream"


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


def test_filters_pass_over_what_was_not_asked_for_and_resume_behind_it(
    stack: Stack, publisher: Publisher
) -> None:
    with (
        EventSource(stack.port, f"{STREAM}?severity=URGENT,high") as grave,
        EventSource(stack.port, f"{STREAM}?types=oven&types=stock") as typed,
        EventSource(stack.port, f"{STREAM}?severity=low&types=oven") as both,
    ):
        for source in (grave, typed, both):
            source.ready()
        known = both.last_id
        high = publisher.alert(severity="High", type="door")
        low = publisher.alert(severity="low", type="oven")
        odd = publisher.alert(severity="odd", type="stock")
        urgent = publisher.alert(severity="urgent")
        assert ids(grave, 2) == [high, urgent]
        assert ids(typed, 2) == [low, odd]
        assert ids(both, 1) == [low]
    with EventSource(stack.port, f"{STREAM}?severity=low", last_id=known) as source:
        assert ids(source, 1) == [low]
        # The urgent one is known to have been passed over.
        source.wait(
            lambda: source.last_id != known and not source.pending() and source.last_id == grave.last_id
        )


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("severity=high,worst", "severity"),
        ("types=a%0Ab", "types"),
        ("types=" + ",".join(f"t{n}" for n in range(33)), "types"),
        ("last_event_id=yesterday", "last_event_id"),
        ("last_event_id=1-2-3-4", "last_event_id"),
    ],
)
def test_a_wrong_parameter_is_named(stack: Stack, query: str, names: str) -> None:
    reply = stack.ask(target=f"{STREAM}?{query}".encode())
    assert reply.status == 422
    assert json.loads(reply.body)["detail"].startswith(f"{names}:")


@pytest.mark.parametrize("last_id", ["none-of-ours", "1", "1-1-1", "\xff", "9" * 500])
def test_an_id_of_another_system_is_reset_and_not_refused(
    stack: Stack, publisher: Publisher, last_id: str
) -> None:
    kept = publisher.alert()
    with EventSource(stack.port, f"{STREAM}?last_event_id=0") as source:
        assert ids(source, 1) == [kept]
    with EventSource(stack.port, last_id=last_id) as source:
        message = source.next()
        assert (message.event, message.json) == ("reset", {"reason": "unknown"})
        assert ids(source, 1) == [kept]


def test_publishers_cannot_forge_events(stack: Stack, publisher: Publisher) -> None:
    poison = "x\n\nid: 9\nevent: reset\ndata: forged\r\rdata: y\u2028\x00"
    with EventSource(stack.port) as source:
        source.ready()
        publisher.raw(b'{"alert_id":\r\n "a",\n\n"message": "two\\nlines"}\r\n')
        first = source.next()
        assert (first.event, first.json) == ("alert", {"alert_id": "a", "message": "two\nlines"})
        publisher.alert(alert_id=poison, severity=poison, type=poison, message=poison)
        second = source.next()
        assert (second.event, second.json["message"]) == ("alert", poison)
        assert second.id == source.last_id > first.id
        for broken in (
            b"",
            b"no json",
            b"[1]",
            b'{"a":',
            b'"x"',
            b"\xff{}",
            b'{"a": "\xff"}',
            b"[" * 10_000,
            b"x" * 70_000,
        ):
            publisher.raw(broken)
        publisher.raw(b"{}", tenant="no tenant")
        publisher.raw(b"{}", tenant="")
        publisher.client.publish("gateway:alerts:recorded", b"recorded x\n\xff")
        publisher.client.publish("gateway:alerts:recorded", f"recorded x {TENANT} 1 2-3 4-5\nnothing")
        last = publisher.alert()
        assert ids(source, 1) == [last]
    text = stack.ask(target=b"/metrics").body.decode()
    for reason in ("not-json", "not-object", "not-utf8", "too-large", "tenant", "announcement"):
        assert f'gateway_alerts_malformed_total{{reason="{reason}"}}' in text


def test_an_alert_without_an_id_goes_by_its_content(stack: Stack, publisher: Publisher) -> None:
    with EventSource(stack.port) as source:
        source.ready()
        for data in (
            b'{"n": 1}',
            b'{ "n" :1}',
            b'{"n":2}',
            b'{"alert_id": null}',
            b'{"alert_id": 7}',
            b'{"alert_id": "7"}',
        ):
            publisher.raw(data)
        found = [message.data for message in source.take(4)]
        assert found == ['{"n":1}', '{"n":2}', '{"alert_id":null}', '{"alert_id":7}']
        last = publisher.alert()
        assert ids(source, 1) == [last]


def test_a_store_that_lost_its_data_resets(stack: Stack, publisher: Publisher) -> None:
    with EventSource(stack.port) as source:
        source.ready()
        publisher.alert()
        source.next()
        known = source.last_id
    publisher.client.flushall()
    with EventSource(stack.port, last_id=known) as source:
        assert source.next().event == "reset"
        new = publisher.alert()
        assert ids(source, 1) == [new]
        publisher.client.flushall()
        newer = publisher.alert()
        found = source.take(2)
        assert [message.event for message in found] == ["reset", "alert"]
        assert found[1].json["alert_id"] == newer


def test_a_subscription_that_is_cut_off_loses_nothing(stack: Stack, publisher: Publisher) -> None:
    expected: list[str] = []
    recorded = lambda: publisher.client.xlen(f"gateway:alerts:{{{TENANT}}}") == len(expected)  # noqa: E731
    with EventSource(stack.port) as source:
        source.ready()
        for _ in range(5):
            expected += [publisher.alert() for _ in range(20)]
            # Recorded, then cut off before the announcements may have been heard.
            poll(recorded)
            publisher.client.client_kill_filter(_type="pubsub")
            poll(lambda: publisher.client.pubsub_numpat() == 1)
        assert ids(source, 100) == expected
        assert publisher.alert() == source.next().json["alert_id"]


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("token:revoked:j-9", "1", "token-revoked"),
        (f"tenant:{TENANT}:subscription_changed_at", "99999999999", "token-stale"),
        (f"tenant:{TENANT}:read_only", "debts", "tenant-read-only"),
        ("platform:read_only", "upgrade", "platform-read-only"),
    ],
)
def test_a_stream_that_loses_its_rights_is_told_and_ends(
    stack: Stack, publisher: Publisher, key: str, value: str, code: str
) -> None:
    with (
        EventSource(stack.port, token=access_token(jti="j-9")) as source,
        EventSource(stack.port, token=service_token(), headers={"X-Tenant-ID": "t-other"}) as stranger,
    ):
        source.ready()
        stranger.ready()
        publisher.client.set(key, value)
        (last,) = source.until_closed()
        assert (last.event, last.json) == ("auth-expired", {"code": code})
        if not key.startswith("platform"):
            other = publisher.alert("t-other")
            assert ids(stranger, 1) == [other]
    if code.endswith("read-only"):
        # Reading goes on under a lock.
        with EventSource(stack.port) as source:
            source.ready()
            assert publisher.alert() == source.next().json["alert_id"]
    publisher.client.delete(key)


def test_a_stream_ends_with_its_token(stack: Stack, publisher: Publisher) -> None:
    with EventSource(stack.port, token=access_token(exp=time.time() + 1)) as source:
        (last,) = source.until_closed()
        assert (last.event, last.json) == ("auth-expired", {"code": "token-expired"})


def test_streams_are_no_requests_in_flight_and_are_counted(stack: Stack, publisher: Publisher) -> None:
    def sample(name: str) -> float:
        return next(
            float(line.split()[-1])
            for line in stack.ask(target=b"/metrics").body.decode().splitlines()
            if line.startswith(name + " ")
        )

    poll(lambda: sample("gateway_sse_streams") == 0)
    before = sample("gateway_sse_events_total")
    with EventSource(stack.port) as one, EventSource(stack.port) as two:
        one.ready()
        two.ready()
        assert sample("gateway_sse_streams") == 2
        assert sample("gateway_requests_in_flight") == 0
        publisher.alert()
        one.next()
        two.next()
        assert sample("gateway_sse_events_total") == before + 2
    poll(lambda: sample("gateway_sse_streams") == 0)
    assert sample("gateway_requests_in_flight") == 0
    assert sample('gateway_sse_streams_closed_total{reason="client"}') >= 2
