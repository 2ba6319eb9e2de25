"""How an access-log line looks: JSON for machines, or one readable line for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import orjson

from kernel.telemetry.redact import ascii_json, ascii_line

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_COLOURS = {2: "\x1b[32m", 3: "\x1b[36m", 4: "\x1b[33m", 5: "\x1b[31m"}


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """One request. Fields with a default are left out when there is nothing to say."""

    timestamp: str
    level: str
    event: str
    request_id: str
    method: str
    route: str
    path: str
    status: int
    duration_ms: float
    ended_by: str
    phase: str
    client_ip: str
    bytes_in: int
    bytes_out: int
    upstream_ms: float | None = None
    service: str = ""
    trace_id: str = ""
    user_id: str | None = None
    tenant_id: str | None = None
    service_name: str | None = None
    user_agent: str = ""
    problem: str = ""


class JsonLines:
    """Records as JSON lines of printable ASCII."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()

    def requests(self, lines: Sequence[Line]) -> bytes:
        """Finished requests."""
        return ascii_json(self._encoder.encode_lines(lines))

    def event(self, fields: Mapping[str, Any]) -> bytes:
        """Any other record."""
        return ascii_json(orjson.dumps(fields, default=str)) + b"\n"


class PrettyLines:
    """Records as lines for people (`STRUCTLOG_PRETTY_PRINT=true`); `colour` when the sink is a terminal."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def requests(self, lines: Sequence[Line]) -> bytes:
        """Finished requests: time, status, method, path, duration, and what else is worth a look."""
        return "".join(self._request(line) + "\n" for line in lines).encode()

    def event(self, fields: Mapping[str, Any]) -> bytes:
        """Any other record: time, level, event, then the fields; a stack trace on lines of its own."""
        rest = {k: v for k, v in fields.items() if k not in {"timestamp", "level", "event", "exception"}}
        head = f"{str(fields.get('timestamp', ''))[11:23]} {fields.get('level', ''):<8} {fields.get('event', '')}"
        lines = [ascii_line(" ".join([head, *(f"{k}={v}" for k, v in rest.items())]))]
        for error in fields.get("exception", ()):
            lines += [
                ascii_line(f"    {frame['filename']}:{frame['lineno']} in {frame['name']}")
                for frame in error["frames"]
            ]
            lines.append(ascii_line(f"    {error['exc_type']}: {error['exc_value']}"))
        return "\n".join(lines).encode() + b"\n"

    def _request(self, line: Line) -> str:
        clock, status = line.timestamp[11:23], str(line.status)
        if self._colour:
            clock = _DIM + clock + _RESET
            status = _COLOURS.get(line.status // 100, "") + status + _RESET
        parts = [clock, status, f"{line.method:<7}", ascii_line(line.path), f"{line.duration_ms:.1f}ms"]
        if line.service:
            parts.append(f"{line.service} {line.upstream_ms or 0:.1f}ms")
        named = {"tenant": line.tenant_id, "user": line.user_id, "problem": line.problem}
        parts += [f"{name}={ascii_line(value)}" for name, value in named.items() if value]
        if line.ended_by != "upstream":
            parts.append(f"ended_by={line.ended_by}/{line.phase}")
        return " ".join([*parts, line.request_id])


Encoder = JsonLines | PrettyLines


# PERF: the end of a stamp is looked up (0.05 us) instead of formatted (0.25 us).
_MILLIS = tuple(f"{ms:03d}Z" for ms in range(1000))


@lru_cache(maxsize=8)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S.")


def stamp(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC, with milliseconds."""
    return stamp_millis(int(seconds * 1000))


def stamp_millis(millis: int) -> str:
    """The same of Unix milliseconds."""
    return _second(millis // 1000) + _MILLIS[millis % 1000]
