"""Dispatcher: one alert to several channels at once, each with a result of its own.

    sse        published on `alerts:tenant:{tenant_id}`, like any service's alerts
    email      POST /api/v1/notifications of the notification service, with the gateway's own token
    whatsapp   the same

A channel that fails or hangs holds up no other, and each ends within the service client's timeout. What was delivered is
remembered for a day by tenant, alert id and channel: a dispatch that is repeated because one channel failed goes to that
channel only. The notification service gets an `Idempotency-Key` as well, for what happened and was not heard of any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from kernel.http.problems import GatewayError
from kernel.routing.catalog import SSE
from kernel.store.errors import StoreError
from kernel.store.keys import ALERT_CHANNEL_PREFIX, alert_dispatched
from kernel.store.redis import Script, Store
from kernel.upstream.client import Answer, ServiceClient

DELIVERED: Final = "delivered"
DUPLICATE: Final = "duplicate"
FAILED: Final = "failed"
_TARGET = "/api/v1/notifications"
# Longer than a call may take, repeated once.
_CLAIM_MS = 15_000
_REMEMBER_SECONDS = 86_400
_DONE = b"delivered"
_MAX_DETAIL = 200
# Only by whom it belongs to: it may have run out and be another's by now.
_RELEASE = Script(
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)


class Result(Struct, frozen=True, omit_defaults=True):
    """What became of the alert in one channel; `detail` tells why it is not "delivered"."""

    channel: str
    status: Literal["delivered", "duplicate", "failed"]
    detail: str = ""


class _Explanation(Struct):
    """What we show of a service's problem document."""

    detail: str = ""


_explanations = msgspec.json.Decoder(_Explanation)


class Dispatcher:
    """One a worker."""

    def __init__(self, store: Store, client: ServiceClient) -> None:
        self._store = store
        self._client = client
        self._counts: defaultdict[tuple[str, str], int] = defaultdict(int)

    async def dispatch(
        self, tenant: str, alert_id: str, alert: dict[str, Any], channels: Sequence[str], request_id: str
    ) -> list[Result]:
        """The results of `channels`, in their order. `alert` is the document that goes out."""
        tasks = (self._deliver(each, tenant, alert_id, alert, request_id) for each in channels)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        results: list[Result] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            results.append(outcome)
            self._counts[outcome.channel, outcome.status] += 1
        return results

    def families(self) -> dict[str, Any]:
        """For metrics."""
        return {"gateway_alert_dispatches_total": dict(self._counts)}

    async def _deliver(
        self, channel: str, tenant: str, alert_id: str, alert: dict[str, Any], request_id: str
    ) -> Result:
        if channel == SSE:
            # Streams tell an alert once however often it is published: nothing to remember here.
            return await self._publish(tenant, alert)
        key = alert_dispatched(tenant, _digest(channel, tenant, alert_id))
        mark = secrets.token_hex(8).encode()
        try:
            before = await self._claim(key, mark)
        except StoreError:
            # Better told twice than never.
            before = None
        if before is not None:
            if before == _DONE:
                return Result(channel, DUPLICATE, "It was delivered before.")
            return Result(
                channel, FAILED, "Another dispatch of it is under way; ask again what became of it."
            )
        try:
            result = await self._notify(channel, tenant, alert_id, alert, request_id)
        except BaseException:
            await self._settle(key, mark, delivered=False)
            raise
        await self._settle(key, mark, delivered=result.status == DELIVERED)
        return result

    async def _publish(self, tenant: str, alert: dict[str, Any]) -> Result:
        document = msgspec.json.encode(alert)
        try:
            heard = await self._store.execute("PUBLISH", ALERT_CHANNEL_PREFIX + tenant, document)
        except StoreError:
            return Result(SSE, FAILED, "Redis is out of reach.")
        # In a cluster the number counts one node's subscribers only.
        if not heard and self._store.address.kind != "cluster":
            return Result(SSE, FAILED, "No gateway is listening for alerts now.")
        return Result(SSE, DELIVERED)

    async def _notify(
        self, channel: str, tenant: str, alert_id: str, alert: dict[str, Any], request_id: str
    ) -> Result:
        headers = (
            (b"x-tenant-id", tenant.encode()),
            (b"x-request-id", request_id.encode()),
            (b"idempotency-key", _digest(channel, tenant, alert_id).encode()),
        )
        body = msgspec.json.encode({**alert, "channel": channel})
        try:
            answer = await self._client.call("notification", "POST", _TARGET, body, headers, repeatable=True)
        except GatewayError as error:
            return Result(channel, FAILED, error.problem.detail)
        if 200 <= answer.status < 300:
            return Result(channel, DELIVERED)
        return Result(channel, FAILED, _explained(answer))

    async def _claim(self, key: str, mark: bytes) -> bytes | None:
        """What another dispatch left there; None when it is ours now. The command may be sent twice: see `mark`."""
        if await self._store.execute("SET", key, mark, "NX", "PX", _CLAIM_MS) is not None:
            return None
        found: bytes | None = await self._store.execute("GET", key)
        return None if found == mark else found or b""

    async def _settle(self, key: str, mark: bytes, *, delivered: bool) -> None:
        try:
            if delivered:
                await self._store.execute("SET", key, _DONE, "EX", _REMEMBER_SECONDS)
            else:
                await self._store.run(_RELEASE, [key], [mark])
        except StoreError:
            return  # the claim runs out by itself


def _digest(channel: str, tenant: str, alert_id: str) -> str:
    return hashlib.sha256(f"{channel}\n{tenant}\n{alert_id}".encode()).hexdigest()


def _explained(answer: Answer) -> str:
    text = f"The notification service answered {answer.status}"
    try:
        detail = _explanations.decode(answer.body).detail[:_MAX_DETAIL]
    except (ValueError, RecursionError):
        detail = ""
    return f"{text}: {detail}" if detail else text + "."
