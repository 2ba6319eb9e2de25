"""The audit trail: who was refused, and who used power. One JSON line an event.

SECURITY: an attacker chooses how many events there are. Equal ones within a second become one line with a count, at
most LINES_A_SECOND different ones of a kind are told apart, the rest only counted; files rotate by size. So failing
logins can neither fill the disk nor crowd events of another kind out of the trail. With AUDIT_ALL each request is a line of
its own beside them, from the access log's batch: then files rotate as fast as there are requests, which is for the operator.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from time import perf_counter, time
from typing import Any, Protocol

from kernel.telemetry.accesslog import Record
from kernel.telemetry.lines import Encoder, JsonLines, stamp
from kernel.telemetry.redact import Anonymizer, clean_path
from kernel.telemetry.writer import Writer

FLUSH_SECONDS = 1.0
LINES_A_SECOND = 50

_MAX_TENANT = 64

# The kinds of events.
AUTH_FAILURE = "auth-failure"
DENIED = "denied"
SERVICE_TOKEN = "service-token"  # noqa: S105  # a kind of event
ADMIN = "admin"
CRITICAL = "critical"
DISPATCH = "dispatch"
REQUEST = "request"
API_KEY = "api-key"

# Of these only refusals are remarkable.
_ROUTINE = frozenset({SERVICE_TOKEN, ADMIN, DISPATCH, API_KEY, REQUEST})

_Key = tuple[str, str, str, str | None, str | None, str | None, str, str]


class Caller(Protocol):
    """What the trail tells of an identity."""

    @property
    def user_id(self) -> str: ...

    @property
    def service(self) -> str | None: ...


class Template(Protocol):
    """What the trail tells of a route."""

    @property
    def template(self) -> str: ...


class Audited(Protocol):
    """What the trail tells of an exchange."""

    @property
    def identity(self) -> Caller | None: ...

    @property
    def route(self) -> Template: ...

    @property
    def request_id(self) -> str: ...

    @property
    def client_ip(self) -> str: ...

    @property
    def method(self) -> str: ...

    @property
    def tenant(self) -> str | None: ...

    @property
    def params(self) -> tuple[bytes, ...]: ...

    @property
    def captured(self) -> dict[bytes, bytes]: ...


class _Event:
    __slots__ = ("count", "fields", "first", "last")

    def __init__(self, now: float, fields: dict[str, Any]) -> None:
        self.first = self.last = now
        self.count = 1
        self.fields = fields


class Audit:
    """Gathers events and writes them once a second.

    `writer` is an `AuditFile`'s, or the log's own when no file is configured; `anonymizer` is the log's, for there it must
    not tell what the lines beside it hide. With `marks` the writer gets an empty piece after each flush, by which an
    `AuditFile` knows how far it is.
    """

    def __init__(
        self,
        writer: Writer,
        encoder: Encoder | None = None,
        anonymizer: Anonymizer | None = None,
        *,
        marks: bool = False,
    ) -> None:
        self._writer = writer
        self._marks = marks
        self._anonymizer = anonymizer
        self._encoder = encoder or JsonLines()
        self._events: dict[_Key, _Event] = {}
        self._different: defaultdict[str, int] = defaultdict(int)
        self._rest: dict[tuple[str, str], _Event] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write from now on."""
        self._timer = loop.call_later(FLUSH_SECONDS, self._tick, loop)

    def event(
        self,
        kind: str,
        *,
        request_id: str = "",
        client_ip: str = "",
        user_id: str | None = None,
        tenant_id: str | None = None,
        service: str | None = None,
        method: str = "",
        route: str = "",
        status: int = 0,
        problem: str = "",
        tenant_requested: str = "",
        subject: str = "",
    ) -> None:
        """Something security-relevant happened; `service` is the caller's name from its service token, `subject` what was
        changed.

        PERF: 0.3 us for an event like one within the last second.
        """
        key = (kind, problem, client_ip, user_id, tenant_id, service, route, subject)
        known = self._events.get(key)
        now = time()
        if known is not None:
            known.count += 1
            known.last = now
        elif self._different[kind] < LINES_A_SECOND:
            self._different[kind] += 1
            self._events[key] = _Event(
                now,
                {
                    "kind": kind,
                    "request_id": request_id,
                    "client_ip": client_ip,
                    "user_id": user_id,
                    "tenant_id": tenant_id,
                    "tenant_requested": tenant_requested,
                    "service_name": service,
                    "method": method,
                    "route": route,
                    "status": status,
                    "problem": problem,
                    "subject": subject,
                },
            )
        else:
            rest = self._rest.get((kind, problem))
            if rest is None:
                self._rest[kind, problem] = _Event(now, {"kind": kind, "problem": problem, "summed_up": True})
            else:
                rest.count += 1
                rest.last = now

    def exchange(self, kind: str, x: Audited, status: int, problem: str = "", subject: str = "") -> None:
        """The event of a request: who made it, from where, for which tenant, and how it was answered."""
        identity = x.identity
        self.event(
            kind,
            request_id=x.request_id,
            client_ip=x.client_ip,
            user_id=identity.user_id if identity is not None else None,
            tenant_id=x.tenant,
            service=identity.service if identity is not None else None,
            method=x.method,
            route=x.route.template,
            status=status,
            problem=problem,
            tenant_requested=_requested(x) if problem and x.tenant is None else "",
            subject=subject,
        )

    def requests(self, records: Sequence[Record]) -> None:
        """Queue an event for each of the access log's `records`."""
        offset = time() - perf_counter()
        lines: list[bytes] = []
        for record in records:
            (
                ended, method, route, path, status, seconds, _, request_id, _, _, ended_by, _,
                user_id, tenant_id, caller, client_ip, _, _, _, problem,
            ) = record  # fmt: skip
            fields = {
                "kind": REQUEST,
                "request_id": request_id,
                "client_ip": client_ip,
                "user_id": user_id,
                "tenant_id": tenant_id,
                "service_name": caller,
                "method": method,
                "route": route,
                "path": clean_path(path),
                "status": status,
                "duration_ms": int(seconds * 1e6) / 1000,
                "ended_by": ended_by,
                "problem": problem,
            }
            lines.append(self._line(_Event(ended + offset, fields)))
        self._writer.write(b"".join(lines), len(lines))

    def flush(self) -> None:
        """Queue what has gathered; returns at once."""
        events = [*self._events.values(), *self._rest.values()]
        if not events:
            return
        self._events.clear()
        self._different.clear()
        self._rest.clear()
        self._writer.write(b"".join(self._line(event) for event in events), len(events))

    def close(self) -> None:
        """Queue everything; the writer's own close waits for the disk."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()

    def _line(self, event: _Event) -> bytes:
        fields = event.fields
        routine = fields["kind"] in _ROUTINE and not fields.get("problem") and fields.get("status", 0) < 400
        level = "info" if routine else "warning"
        line = {"timestamp": stamp(event.first), "level": level, "event": "audit", **fields}
        if self._anonymizer is not None:
            if fields.get("client_ip"):
                line["client_ip"] = self._anonymizer.ip(fields["client_ip"])
            if fields.get("user_id"):
                line["user_id"] = self._anonymizer.user(fields["user_id"])
        if event.count > 1:
            line["count"] = event.count
            line["last"] = stamp(event.last)
        return self._encoder.event(
            {name: value for name, value in line.items() if value not in (None, "", 0)}
        )

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(FLUSH_SECONDS, self._tick, loop)
        self.flush()
        if self._marks:
            self._writer.write(b"", 0)


def _requested(x: Audited) -> str:
    """The tenant that a refused request asked for, as it was written; a token's parts are not."""
    segments = x.route.template.split("/")
    named = [segment for segment in segments if segment.startswith("{")]
    if "{tenant_id}" in named and len(x.params) >= len(named):
        wanted = x.params[named.index("{tenant_id}")]
    else:
        wanted = x.captured.get(b"x-tenant-id", b"")
    return clean_path(wanted[:_MAX_TENANT])
