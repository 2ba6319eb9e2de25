"""Dispatch: each channel has its own fate, bad input is named, and nothing is sent twice for asking twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from kernel.config import ConfigErrors, load
from kernel.server.embedded_store import EmbeddedStore
from kernel.store.keys import tenant_alerts
from tests.support.inprocess import Local, Reply, local_gateway
from tests.support.recorder import Recorder, Seen, recording_upstream
from tests.support.store import until
from tests.support.tokens import OTHER_TENANT, TENANT, access_token, service_token

PATH = "/api/v1/alerts/dispatch"


class Notifications:
    """The notification service: what reached it, and what it says to each channel (0: it breaks the connection)."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.seen: list[Seen] = []
        self.status: dict[str, int] = {}
        self.refusal: Any = {"detail": "No address is known."}
        recorder.answer = self._answer

    @property
    def documents(self) -> list[dict[str, Any]]:
        return [json.loads(seen.body) for seen in self.seen]

    def _answer(self, seen: Seen) -> tuple[int, Any] | None:
        if seen.target != b"/api/v1/notifications":
            return 200, {}
        self.seen.append(seen)
        status = self.status.get(json.loads(seen.body)["channel"], 201)
        return status, self.refusal if status >= 400 else {}


@pytest.fixture
def notifications() -> Iterator[Notifications]:
    with recording_upstream() as recorder:
        yield Notifications(recorder)


@pytest.fixture
async def gateway(
    store_server: EmbeddedStore, tmp_path: Path, notifications: Notifications
) -> AsyncIterator[Local]:
    url = notifications.recorder.url
    async with local_gateway(store_server.url, tmp_path, NOTIFICATION_SERVICE_URL=url) as local:
        yield local


@contextmanager
def listening(store: EmbeddedStore, tenant: str = TENANT) -> Iterator[redis.client.PubSub]:
    with redis.Redis.from_url(store.url) as client, client.pubsub() as subscription:
        subscription.subscribe(f"alerts:tenant:{tenant}")
        while subscription.get_message(timeout=1) is None:
            pass
        yield subscription


def heard(subscription: redis.client.PubSub) -> dict[str, Any]:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        message = subscription.get_message(ignore_subscribe_messages=True, timeout=0.2)
        if message is not None:
            document: dict[str, Any] = json.loads(message["data"])
            return document
    raise AssertionError("nothing was published")


def alert(**changes: Any) -> dict[str, Any]:
    """A good alert, but for `changes`; a change to `...` drops the field."""
    document = {
        "tenant_id": TENANT,
        "alert_id": "oven-1",
        "severity": "urgent",
        "message": "Horno parado por sobretemperatura",
        "timestamp": "2026-11-23T05:00:00Z",
        **changes,
    }
    return {name: value for name, value in document.items() if value is not ...}


async def dispatch(
    gateway: Local, document: object, token: bytes | None = None, tenant: str | None = None
) -> Reply:
    headers = {} if tenant is None else {"x-tenant-id": tenant}
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return await gateway.ask("POST", PATH, token or service_token("alert-processor"), body, headers=headers)


def fates(reply: Reply) -> dict[str, str]:
    return {result["channel"]: result["status"] for result in reply.document["results"]}


async def test_an_alert_goes_to_the_channels_it_names_as_it_came(
    gateway: Local, notifications: Notifications, store_server: EmbeddedStore
) -> None:
    extra = {"type": "oven", "details": {"celsius": 412.5, "zones": [1, None]}, "ñ": "é"}
    with listening(store_server) as subscription:
        reply = await dispatch(gateway, alert(channels=["whatsapp", "sse", "email", "sse"], **extra))
        published = await asyncio.to_thread(heard, subscription)
    assert reply.status == 200
    assert reply.header("cache-control") == "no-store"
    assert reply.document == {
        "tenant_id": TENANT,
        "alert_id": "oven-1",
        "results": [{"channel": each, "status": "delivered"} for each in ("whatsapp", "sse", "email")],
    }
    assert published == alert(**extra)
    told = sorted(notifications.documents, key=lambda each: str(each["channel"]))
    assert told == [alert(channel=each, **extra) for each in ("email", "whatsapp")]
    for seen in notifications.seen:
        (authorization,) = seen.header("authorization")
        identity = gateway.state.verifier.verify(authorization.removeprefix("Bearer ").encode())
        assert identity.service == "gateway"
        assert seen.header("x-tenant-id") == [TENANT]
        assert seen.header("x-request-id") == [reply.header("x-request-id")]
    keys = {key for seen in notifications.seen for key in seen.header("idempotency-key")}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("severity", "channels"),
    [
        ("low", ["sse"]),
        ("HIGH", ["sse", "email"]),
        ("urgent", ["sse", "email", "whatsapp"]),
        ("critical", ["sse", "email", "whatsapp"]),
    ],
)
async def test_without_channels_the_severity_decides(
    gateway: Local, severity: str, channels: list[str]
) -> None:
    reply = await dispatch(gateway, alert(severity=severity))
    assert list(fates(reply)) == channels


async def test_rules_of_the_file_take_the_place_of_the_built_in_ones(
    store_server: EmbeddedStore, tmp_path: Path, notifications: Notifications
) -> None:
    rules = tmp_path / "gateway.toml"
    rules.write_text('[alerts.channels]\nurgent = ["email"]\nlow = ["sse", "whatsapp"]\n')
    url = notifications.recorder.url
    async with local_gateway(
        store_server.url, tmp_path, GATEWAY_CONFIG=str(rules), NOTIFICATION_SERVICE_URL=url
    ) as gateway:
        for severity, channels in (
            ("urgent", ["email"]),
            ("low", ["sse", "whatsapp"]),
            ("high", ["sse", "email"]),
        ):
            assert list(fates(await dispatch(gateway, alert(severity=severity)))) == channels


async def test_one_channel_that_fails_stops_no_other(gateway: Local, notifications: Notifications) -> None:
    notifications.status["whatsapp"] = 422
    reply = await dispatch(gateway, alert())
    assert reply.status == 207
    assert fates(reply) == {"sse": "delivered", "email": "delivered", "whatsapp": "failed"}
    assert reply.document["results"][2]["detail"] == (
        "The notification service answered 422: No address is known."
    )
    # Again, with the fault put right: only what failed is tried.
    notifications.seen.clear()
    notifications.status.clear()
    again = await dispatch(gateway, alert())
    assert again.status == 200
    assert fates(again) == {"sse": "delivered", "email": "duplicate", "whatsapp": "delivered"}
    assert [each["channel"] for each in notifications.documents] == ["whatsapp"]
    families = gateway.state.dispatcher.families()["gateway_alert_dispatches_total"]
    assert families == {
        ("sse", "delivered"): 2,
        ("email", "delivered"): 1,
        ("email", "duplicate"): 1,
        ("whatsapp", "failed"): 1,
        ("whatsapp", "delivered"): 1,
    }


async def test_when_every_channel_fails_it_is_a_problem_with_the_reasons(
    gateway: Local, notifications: Notifications
) -> None:
    notifications.status.update(email=500, whatsapp=0)
    reply = await dispatch(gateway, alert(channels=["email", "whatsapp"]))
    assert (reply.status, reply.code) == (502, "dispatch-failed")
    assert reply.header("content-type") == "application/problem+json"
    document = reply.document
    assert document["instance"] == PATH
    assert [result["status"] for result in document["results"]] == ["failed", "failed"]
    assert "500" in document["results"][0]["detail"]
    assert "notification" in document["results"][1]["detail"]


@pytest.mark.parametrize("garbage", [b"<html>", b'{"detail":"\xff"}', b'{"a":' + b"[" * 100_000])
async def test_an_explanation_that_cannot_be_read_is_left_out(
    gateway: Local, notifications: Notifications, garbage: bytes
) -> None:
    notifications.status["email"] = 422
    notifications.refusal = garbage
    (result,) = (await dispatch(gateway, alert(channels=["email"]))).document["results"]
    assert result["detail"] == "The notification service answered 422."


async def test_a_channel_that_hangs_is_given_up_and_the_others_are_not_held_up(
    store_server: EmbeddedStore, tmp_path: Path
) -> None:
    silent: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: silent.append(writer), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with local_gateway(store_server.url, tmp_path, NOTIFICATION_SERVICE_URL=url) as gateway:
        gateway.state.client._timeout = 0.3
        reply = await dispatch(gateway, alert(channels=["email", "sse"]))
    assert fates(reply) == {"email": "failed", "sse": "delivered"}
    assert "no answer within 0.3 s" in reply.document["results"][0]["detail"]
    for writer in silent:
        writer.close()
    server.close()


async def test_two_dispatches_at_once_send_one_message(gateway: Local, notifications: Notifications) -> None:
    replies = await asyncio.gather(*(dispatch(gateway, alert(channels=["email"])) for _ in range(5)))
    assert len(notifications.seen) == 1
    assert sorted(fates(reply)["email"] for reply in replies).count("delivered") == 1
    assert fates(await dispatch(gateway, alert(channels=["email"]))) == {"email": "duplicate"}
    # Another tenant's alert of the same id is another alert.
    assert fates(await dispatch(gateway, alert(channels=["email"], tenant_id=OTHER_TENANT))) == {
        "email": "delivered"
    }


async def test_an_alert_dispatched_twice_is_one_event_of_the_stream(
    gateway: Local, store_server: EmbeddedStore
) -> None:
    for _ in range(3):
        assert (await dispatch(gateway, alert(channels=["sse"]))).status == 200
    assert (await dispatch(gateway, alert(channels=["sse"], alert_id="the-last"))).status == 200
    with redis.Redis.from_url(store_server.url) as client:
        # Alerts are recorded in the order they are published.
        await until(lambda: client.xlen(tenant_alerts(TENANT)[0]) == 2)


async def test_without_the_store_mail_goes_out_all_the_same(
    mortal_store: EmbeddedStore, tmp_path: Path, notifications: Notifications
) -> None:
    url = notifications.recorder.url
    async with local_gateway(mortal_store.url, tmp_path, NOTIFICATION_SERVICE_URL=url) as gateway:
        mortal_store.kill()
        reply = await dispatch(gateway, alert())
        assert fates(reply) == {"sse": "failed", "email": "delivered", "whatsapp": "delivered"}
        assert (await dispatch(gateway, alert(channels=["sse"]))).code == "dispatch-failed"


async def test_only_services_dispatch_and_only_to_their_own_tenant(
    gateway: Local, notifications: Notifications
) -> None:
    assert (await gateway.ask("POST", PATH, None, b"{}")).code == "token-missing"
    assert (await dispatch(gateway, alert(), access_token())).code == "service-only"
    bound = service_token("orders", tenant_id=OTHER_TENANT)
    assert (await dispatch(gateway, alert(), bound)).code == "tenant-forbidden"
    assert (await dispatch(gateway, alert(tenant_id=OTHER_TENANT), bound)).status == 200
    named = await dispatch(gateway, alert(), tenant=OTHER_TENANT)
    assert (named.status, named.code) == (422, "body-invalid")
    assert {each["tenant_id"] for each in notifications.documents} == {OTHER_TENANT}
    assert (await gateway.ask("GET", PATH, service_token())).status == 405


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (b"", "`tenant_id`"),
        (b"{}", "`tenant_id`"),
        (b"[]", "object"),
        (alert(tenant_id=...), "`tenant_id`"),
        (alert(tenant_id="a b"), "`tenant_id`"),
        (alert(tenant_id="*"), "`tenant_id`"),
        (alert(alert_id=...), "`alert_id`"),
        (alert(alert_id=""), "`alert_id`"),
        (alert(alert_id="a\nb"), "`alert_id`"),
        (alert(severity=...), "`severity`"),
        (alert(severity="loud"), "`severity`: 'loud' is none of info, low, medium, high, urgent, critical"),
        (alert(message=...), "`message`"),
        (alert(message=5), "`message`"),
        (alert(timestamp=...), "`timestamp`"),
        (alert(timestamp="yesterday"), "`timestamp`"),
        (alert(channels=[]), "`channels`"),
        (alert(channels="sse"), "`channels`"),
        (
            alert(channels=["sse", "pigeon"]),
            "`channels[1]`: invalid enum value 'pigeon'; it takes email, sse, whatsapp",
        ),
        (alert(type=5), "`type`"),
    ],
)
async def test_what_is_wrong_with_an_alert_is_named(
    gateway: Local, notifications: Notifications, document: object, named: str
) -> None:
    reply = await dispatch(gateway, document)
    assert (reply.status, reply.code) == (422, "body-invalid")
    assert named in reply.document["detail"]
    assert not notifications.seen


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (json.dumps(alert()).replace("oven-1", "\\ud800").encode(), 400),
        (b'{"x":' + b"[" * 100_000, 400),
        (msgspec.json.encode(alert(more="x" * 70_000)), 413),
    ],
)
async def test_what_is_no_alert_at_all(gateway: Local, body: bytes, status: int) -> None:
    assert (await dispatch(gateway, body)).status == status


@pytest.mark.parametrize(
    "value", [1764000000, 1764000000.25, "2026-11-23T05:00:00", "2026-11-23T05:00:00.5+01:00"]
)
async def test_moments_and_ids_come_in_several_forms(gateway: Local, value: object) -> None:
    reply = await dispatch(gateway, alert(timestamp=value, alert_id=17, channels=["sse"]))
    assert reply.status == 200
    assert reply.document["alert_id"] == 17


async def test_alerts_go_out_while_writing_is_suspended(gateway: Local, redis_cli: redis.Redis) -> None:
    redis_cli.set("platform:read_only", "maintenance")
    redis_cli.set(f"tenant:{TENANT}:read_only", "the books are being closed")
    assert (await dispatch(gateway, alert())).status == 200


def test_rules_that_are_wrong_are_told_all_at_once(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[alerts.channels]\nurgnt = ["sse"]\nlow = []\nhigh = ["sse", "pigeon"]\nmedium = "sse"\n'
        "[alerts.chanels]\n"
    )
    with pytest.raises(ConfigErrors) as raised:
        load({"GATEWAY_CONFIG": str(file)})
    assert [f"{error.variable}: {error.problem}" for error in raised.value.errors] == [
        "gateway.toml [alerts] chanels: is unknown; did you mean channels?",
        "gateway.toml [alerts.channels] urgnt: is unknown; did you mean urgent?",
        "gateway.toml [alerts.channels] low: expected `array` of length >= 1",
        "gateway.toml [alerts.channels] high[1]: 'pigeon' is not one of sse, email, whatsapp",
        "gateway.toml [alerts.channels] medium: expected `array`, got `str`",
    ]


async def test_a_bug_in_one_channel_lets_the_others_finish(
    gateway: Local, notifications: Notifications, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = gateway.state.client.call

    async def broken(service: str, method: str, target: str, body: bytes, *rest: Any, **more: Any) -> Any:
        if b'"email"' in body:
            raise RuntimeError("a bug")
        await asyncio.sleep(0.05)
        return await call(service, method, target, body, *rest, **more)

    monkeypatch.setattr(type(gateway.state.client), "call", staticmethod(broken))
    assert (await dispatch(gateway, alert())).code == "internal"
    assert [each["channel"] for each in notifications.documents] == ["whatsapp"]
    monkeypatch.undo()
    assert fates(await dispatch(gateway, alert())) == {
        "sse": "delivered",
        "email": "delivered",
        "whatsapp": "duplicate",
    }
