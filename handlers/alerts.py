"""`GET /api/v1/alerts/stream`: a tenant's alerts as they come, as an event stream (WHATWG HTML section 9.2).

    ?severity=high,urgent   only these severities (ALERTS_SEVERITIES names those there are)
    ?types=stock,oven       only these types; ?types=stock&types=oven is the same
    ?last_event_id=ID       go on after that event; what browsers send as Last-Event-ID comes first. 0: all that is kept

    event: alert            data is the alert as published
    event: reset            alerts after the one named are gone; all that is still kept follows, the oldest first
    event: auth-expired     the token lost its rights, data.code says why; the stream ends

What EventSource cannot survive is a response other than 200: it never tries again. So a Last-Event-ID that is none of ours
(another system's, before a migration) gets a `reset` and not a refusal, and the store's outage leaves the stream open and
silent. A parameter is written by a developer, who is told what is wrong with it: 422.
"""

from __future__ import annotations

import re
from asyncio import timeout
from urllib.parse import parse_qsl

from kernel.alerts.client import GONE, LINGER, Wants
from kernel.alerts.event import HEARTBEAT, RETRY_USUAL, retry_frame
from kernel.exchange.disconnect import Disconnect
from kernel.exchange.exchange import CLIENT, Exchange, Handler
from kernel.exchange.phase import STREAM
from kernel.http.problems import (
    OVERLOADED,
    PARAMETER_INVALID,
    STREAM_SLOW,
    TENANT_INVALID,
    GatewayError,
)
from kernel.identity.identity import TenantContext
from kernel.openapi.own import Answer, Operation, Operations, Query
from kernel.routing.catalog import RouteRow
from kernel.state import Factories, State
from kernel.store.alertlog import OLDEST, Position
from kernel.store.errors import StoreDown
from kernel.tenancy.guard import Watch

_HEADERS = (
    (b"content-type", b"text/event-stream"),
    # no-transform: a proxy that compresses holds events back.
    (b"cache-control", b"no-cache, no-transform"),
    # nginx passes events on at once.
    (b"x-accel-buffering", b"no"),
)
_ID = re.compile(r"([0-9]{1,15})-([0-9]{1,15})-([0-9]{1,10})")
# Of no generation there ever was: answered with a reset.
_STRANGE = Position(0, 0, 0)
_LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MAX_LABELS = 32
_RETRY_LATER = ((b"retry-after", b"5"),)


OPERATIONS: Operations = {
    "GET alert-stream": Operation(
        "A tenant's alerts as they come",
        "alerts",
        {200: Answer("Events: alert, reset, auth-expired; their data is JSON", media="text/event-stream")},
        parameters=(
            Query("severity", "Only these, separated by commas."),
            Query("types", "Only alerts of these types, separated by commas."),
            Query("last_event_id", "Go on after this event; 0: all that is kept."),
            Query("Last-Event-ID", "The same, as browsers send it.", "header"),
        ),
    )
}


def stream(state: State, row: RouteRow) -> Handler:
    """The handler of the stream."""
    severities = frozenset(state.settings.alerts_severities)

    async def handle(x: Exchange) -> None:
        wishes = _wishes(x, severities)
        if x.method == "HEAD":
            await x.send_whole(200, [*_HEADERS], b"")
            return
        client = state.alerts.open(*wishes)
        if client is None:
            raise GatewayError(OVERLOADED("Too many streams are open.", _RETRY_LATER))
        # An open stream is no request in flight: it must not count towards the limit that sheds load.
        state.metrics.in_flight -= 1
        watch: Watch | None = None
        departure: Disconnect | None = None
        try:
            locks = await _unlocked(state, x.granted)
            watch = state.guard.watch(x.caller, x.granted, client.expire, locks=locks)
            departure = Disconnect(x.receive, client.leave)
            await x.start(200, [*_HEADERS])
            x.phase = STREAM
            await x.push(retry_frame(RETRY_USUAL) + HEARTBEAT)
            if x.cached_identity is None and watch.alone:
                # PERF: 3 KiB of a user who only listens. Whose token comes again is verified once more, and kept.
                if x.token is not None:
                    state.verifier.cache.discard(x.token)
                x.identity = x.caller.remains()
            x.forget_request()
            state.streams.add(client.drain)
            whole = await client.run(x.push)
        finally:
            state.streams.discard(client.drain)
            if watch is not None:
                watch.cancel()
            if departure is not None:
                departure.cancel()
            state.metrics.in_flight += 1
            state.alerts.close_stream(client)
        if client.ended == GONE:
            x.ended_by = CLIENT
            return
        if whole:
            try:
                async with timeout(LINGER):
                    await x.write(b"", more=False)
            except TimeoutError:
                whole = False
        if not whole:
            raise GatewayError(STREAM_SLOW())

    return handle


async def _unlocked(state: State, context: TenantContext) -> bool:
    """Whether the tenant may be written to. A lock that comes ends the stream, so that the page looks at its state anew;
    under one that is there already reading goes on, and so does the stream."""
    try:
        return not any(value is not None for value in await state.tracked.fetch(context.lock_keys))
    except StoreDown:
        return False


def _wishes(x: Exchange, severities: frozenset[str]) -> tuple[str, Position | None, Wants]:
    """Whose alerts, from where on, and which. Raises GatewayError: TENANT_INVALID, PARAMETER_INVALID."""
    if not x.tenant:
        raise GatewayError(TENANT_INVALID("Say which tenant's alerts: X-Tenant-ID."))
    given: dict[str, str] = {}
    for name, value in parse_qsl(x.query.decode("ascii"), keep_blank_values=True):
        # `severity=high&severity=low` is what forms and many clients make of a list.
        given[name] = f"{given[name]},{value}" if name in given else value
    known: Position | None = None
    header = x.captured.get(b"last-event-id", b"").decode("latin-1")
    asked = given.get("last_event_id", "")
    if header:
        known = _position(header) or _STRANGE
    elif asked:
        known = _position(asked)
        if known is None:
            raise GatewayError(
                PARAMETER_INVALID(
                    "last_event_id: send the id of an event of this stream, or 0 for all that is kept."
                )
            )
    wanted = _labels(given, "severity")
    if wanted is not None:
        wanted = frozenset(each.lower() for each in wanted)
        if unknown := sorted(wanted - severities):
            raise GatewayError(
                PARAMETER_INVALID(f"severity: {unknown[0]!r} is none of {', '.join(sorted(severities))}.")
            )
    return x.tenant, known, Wants(wanted, _labels(given, "types"))


def _position(text: str) -> Position | None:
    if text == "0":
        return OLDEST
    match = _ID.fullmatch(text)
    return Position(int(match[1]), int(match[2]), int(match[3])) if match else None


def _labels(given: dict[str, str], name: str) -> frozenset[str] | None:
    """The comma-separated words of a parameter; None when it is absent or empty."""
    words = [word.strip() for word in given.get(name, "").split(",") if word.strip()]
    if not words:
        return None
    if len(words) > _MAX_LABELS:
        raise GatewayError(PARAMETER_INVALID(f"{name}: name at most {_MAX_LABELS}."))
    for word in words:
        if not _LABEL.fullmatch(word):
            raise GatewayError(
                PARAMETER_INVALID(
                    f"{name}: each is 1 to 64 letters, digits, '_', '.', ':' or '-', separated by commas."
                )
            )
    return frozenset(words)


FACTORIES: Factories = {"alert-stream": stream}
