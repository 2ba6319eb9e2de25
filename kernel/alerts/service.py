"""Alerts: the subscription, the recorder and the fan-out of one worker."""

from __future__ import annotations

import os
import secrets
from time import monotonic
from typing import Any

from kernel.alerts.client import Client, Wants
from kernel.alerts.counters import Counters
from kernel.alerts.event import payload_key
from kernel.alerts.fanout import Fanout
from kernel.alerts.intake import Malformed, parse
from kernel.alerts.recorder import Recorder
from kernel.config import Settings
from kernel.store.alertlog import AlertLog, Position, position
from kernel.store.keys import ALERT_CHANNEL_PREFIX, ALERTS_RECORDED
from kernel.store.pubsub import Subscription
from kernel.store.reading import failure
from kernel.store.redis import Store
from kernel.telemetry.log import Log

_RECORDED = ALERTS_RECORDED.encode()
# A publisher that sends nothing but rubbish is worth one line in so many seconds.
_COMPLAIN_EVERY = 10.0


class Alerts:
    """One a worker; `start` it in the loop that uses it, after its store."""

    def __init__(self, store: Store, settings: Settings, log: Log) -> None:
        me = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.numbers = Counters()
        self._max_streams = settings.alerts_max_streams
        self._max_bytes = settings.alerts_max_bytes
        self._log = log
        self._complained: dict[str, float] = {}
        kept = AlertLog(
            store, me, most=settings.alerts_retention_events, retention=settings.alerts_retention_seconds
        )
        self._recorder = Recorder(kept, me, self.numbers)
        self._store = store
        self._back = f"back {me}"
        store.on_connect(self._reconnected)
        store.on_lost(self._recorder.lost)
        self._fanout = Fanout(
            kept,
            self.numbers,
            max_events=settings.alerts_queue_events,
            max_bytes=settings.alerts_queue_bytes,
            heartbeat=settings.alerts_heartbeat_seconds,
            max_alert=settings.alerts_max_bytes,
        )
        self._subscription = Subscription(
            store,
            (ALERTS_RECORDED,),
            (f"{ALERT_CHANNEL_PREFIX}*",),
            self._hear,
            self._subscribed,
            lambda: self._fanout.waking,
            hello=(ALERTS_RECORDED, f"joined {me}"),
        )

    async def start(self) -> None:
        """Subscribe. A store that is out of reach is tried again in the background."""
        await self._subscription.start()

    async def close(self) -> None:
        """Alerts heard so far are recorded; nothing runs any more."""
        await self._subscription.close()
        await self._recorder.close()
        await self._fanout.stop()

    def open(self, tenant: str, known: Position | None, wants: Wants) -> Client | None:
        """A stream of `tenant`'s alerts (see `Fanout.open`), or None when there are too many. To be closed."""
        if len(self._fanout) >= self._max_streams:
            self.numbers.refused += 1
            return None
        return self._fanout.open(tenant, known, wants)

    def close_stream(self, client: Client) -> None:
        """A stream has ended."""
        self._fanout.close(client)

    def families(self) -> dict[str, Any]:
        """For metrics."""
        return {
            **self.numbers.families(),
            "gateway_sse_streams": len(self._fanout),
            "gateway_alerts_subscribed": int(self._subscription.live),
        }

    def _subscribed(self) -> None:
        reachable = self._store.connected
        self._recorder.subscribed(reachable=reachable)
        self._fanout.connected()
        if not reachable:
            self._store.hurry()

    def _reconnected(self, after_outage: bool) -> None:
        self._recorder.reconnected()
        if self._subscription.live:
            self._fanout.connected()
        if after_outage:
            # What nobody hears does no harm: see the recorder.
            self._store.execute("PUBLISH", ALERTS_RECORDED, self._back).add_done_callback(failure)

    def _hear(self, channel: bytes, data: bytes) -> None:
        if channel == _RECORDED:
            try:
                self._announced(data)
            except ValueError:  # msgspec's errors are ValueErrors, too
                self._complain("announcement", channel)
            return
        try:
            alert = parse(channel, data, self._max_bytes)
        except Malformed as why:
            self._complain(str(why), channel)
        else:
            self._recorder.offer(alert)

    def _announced(self, data: bytes) -> None:
        """See `AlertLog.record` for what is announced, and `Subscription` for the hello of who joins."""
        if not self._store.connected:
            # Somebody has it.
            self._store.hurry()
        head, _, rest = data.partition(b"\n")
        if head.startswith(b"joined "):
            self._recorder.joined()
            return
        if head.startswith(b"back "):
            self._recorder.found()
            return
        kind, worker, tenant, *where = head.split(b" ")
        name = tenant.decode("ascii")
        if kind == b"seen":
            self._recorder.recorded(worker, name, rest.decode(), new=False)
            return
        generation, here, before = where
        self._recorder.recorded(worker, name, payload_key(rest), new=True)
        self._fanout.receive(name, position(generation, here), position(generation, before), rest)

    def _complain(self, reason: str, channel: bytes) -> None:
        self.numbers.malformed[reason] += 1
        now = monotonic()
        if now - self._complained.get(reason, -_COMPLAIN_EVERY) >= _COMPLAIN_EVERY:
            self._complained[reason] = now
            self._log.warning(
                "a published alert was dropped",
                reason=reason,
                channel=channel[:128].decode("latin-1"),
                so_far=self.numbers.malformed[reason],
            )


__all__ = ["Alerts"]
