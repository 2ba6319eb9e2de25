"""The access log: one line a request, made in batches beside the hot path.

A request appends one tuple to a list. A timer formats what has gathered and hands the bytes to a `Writer`. The tuple's
members, in order (text that a client chose is bytes, exactly as it came):

    ended         float     perf_counter() at the end of the exchange
    method        str
    route         str       the template that matched, or "unmatched"
    path          bytes     raw path without the query, which is never logged
    status        int       499: the client left
    seconds       float     from the head to the end of the response
    upstream      float     seconds the service took to its response's head; 0.0: none was asked
    request_id    str
    trace         bytes     the traceparent sent on, or b""
    service       str       the service asked, or ""
    ended_by      str       client, gateway or upstream
    phase         str       where it ended
    user_id       str|None
    tenant_id     str|None
    caller        str|None  name of the calling service, from its service token
    client_ip     str
    bytes_in      int       bytes of the request's body
    bytes_out     int       bytes of the response's body
    user_agent    bytes|None
    problem       str       the problem's code, or ""

Lines are INFO, those of 5xx responses ERROR; LOG_LEVEL above that leaves them out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from time import perf_counter, time

from kernel.telemetry.lines import Encoder, JsonLines, Line, stamp, stamp_millis
from kernel.telemetry.redact import Anonymizer, clean_headers, clean_path, without_addresses
from kernel.telemetry.writer import Writer

Record = tuple[
    float, str, str, bytes, int, float, float, str, bytes, str, str, str,
    str | None, str | None, str | None, str, int, int, bytes | None, str,
]  # fmt: skip

FLUSH_SECONDS = 0.1
# A flush of this many lines keeps the loop for about half a millisecond; more traffic makes flushes come sooner.
_BATCH = 256
_SOONEST = 0.01
_MAX_AGENT = 256


class AccessLog:
    """Gathers records and writes them.

    Args:
        writer: takes the bytes; its `dropped` counts lines lost.
        level: the lowest level written, as in `logging`.
        encoder: JSON or human lines.
        anonymizer: set with LOG_ANONYMIZE.
        also: takes each batch of records too, whatever the level; set with AUDIT_ALL.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        level: int = logging.INFO,
        encoder: Encoder | None = None,
        anonymizer: Anonymizer | None = None,
        also: Callable[[list[Record]], None] | None = None,
    ) -> None:
        self._writer = writer
        self._also = also
        self._level = level
        self._encoder = encoder or JsonLines()
        self._anonymizer = anonymizer
        self._records: list[Record] = []
        self._timer: asyncio.TimerHandle | None = None
        # PERF: list.append itself (0.03 us), not a method around it (0.1 us).
        self.append: Callable[[Record], None] = self._records.append
        self.debug = level <= logging.DEBUG

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Flush from now on."""
        self._timer = loop.call_later(FLUSH_SECONDS, self._tick, loop)

    def pre_request(
        self,
        request_id: str,
        method: str,
        path: bytes,
        client_ip: str,
        headers: Iterable[tuple[bytes, bytes]],
    ) -> None:
        """The line before a request, secrets redacted. Only to be called when `debug` is true."""
        ip = self._anonymizer.ip(client_ip) if self._anonymizer else client_ip
        fields = {
            "timestamp": stamp(time()),
            "level": "debug",
            "event": "request_started",
            "request_id": request_id,
            "method": method,
            "path": clean_path(path),
            "client_ip": ip,
            "headers": clean_headers(headers if self._anonymizer is None else without_addresses(headers)),
        }
        self._writer.write(self._encoder.event(fields))

    def flush(self) -> None:
        """Format what has gathered and queue it; returns at once."""
        if not self._records:
            return
        # The list itself stays: `append` is bound to it.
        records = self._records.copy()
        self._records.clear()
        if self._also is not None:
            self._also(records)
        lines = self._lines(records)
        if lines:
            self._writer.write(self._encoder.requests(lines), len(lines))

    def close(self) -> None:
        """Queue everything; the writer's own close waits for the sink."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.flush()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        gathered = len(self._records)
        delay = FLUSH_SECONDS if gathered <= _BATCH else max(_SOONEST, FLUSH_SECONDS * _BATCH / gathered)
        self._timer = loop.call_later(delay, self._tick, loop)
        self.flush()

    def _lines(self, records: list[Record]) -> list[Line]:
        offset = time() - perf_counter()
        anonymizer = self._anonymizer
        info = self._level <= logging.INFO
        lines: list[Line] = []
        moment, at = 0, ""
        if self._level > logging.ERROR:
            return lines
        for record in records:
            (
                ended, method, route, path, status, seconds, upstream, request_id, trace, service, ended_by, phase,
                user_id, tenant_id, caller, client_ip, bytes_in, bytes_out, user_agent, problem,
            ) = record  # fmt: skip
            failed = status >= 500
            if not failed and not info:
                continue
            if anonymizer is not None:
                client_ip = anonymizer.ip(client_ip)
                if user_id and not caller:
                    user_id = anonymizer.user(user_id)
            # PERF: many requests end within one millisecond; durations get three decimals as cheaply as can be.
            now = int((ended + offset) * 1000)
            if now != moment:
                moment, at = now, stamp_millis(now)
            lines.append(
                Line(
                    at,
                    "error" if failed else "info",
                    "request",
                    request_id,
                    method,
                    route,
                    clean_path(path),
                    status,
                    int(seconds * 1e6) / 1000,
                    ended_by,
                    phase,
                    client_ip,
                    bytes_in,
                    bytes_out,
                    int(upstream * 1e6) / 1000 if upstream else None,
                    service,
                    trace[3:35].decode("latin-1") if trace else "",
                    user_id,
                    tenant_id,
                    caller,
                    clean_path(user_agent[:_MAX_AGENT]) if user_agent else "",
                    problem,
                )
            )
        return lines
