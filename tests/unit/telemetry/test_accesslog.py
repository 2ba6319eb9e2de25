from __future__ import annotations

import asyncio
import json
import logging
import os
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.telemetry.accesslog import AccessLog, Record
from kernel.telemetry.lines import JsonLines, Line, PrettyLines, stamp
from kernel.telemetry.redact import Anonymizer
from kernel.telemetry.writer import FdSink, Writer

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ORDER = [
    *("ended", "method", "route", "path", "status", "seconds", "upstream", "request_id", "trace", "service"),
    *(
        "ended_by",
        "phase",
        "user_id",
        "tenant_id",
        "caller",
        "client_ip",
        "bytes_in",
        "bytes_out",
        "user_agent",
    ),
    "problem",
]


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "ended": perf_counter(),
        "method": "GET",
        "route": "/api/v1/inventory/**",
        "path": b"/api/v1/inventory/items",
        "status": 200,
        "seconds": 0.0042,
        "upstream": 0.003,
        "request_id": "a91133ce-9a1b-4e37-8006-6e74fb8c550a",
        "trace": TRACE,
        "service": "inventory",
        "ended_by": "upstream",
        "phase": "body",
        "user_id": "u-1",
        "tenant_id": "t-1",
        "caller": None,
        "client_ip": "203.0.113.77",
        "bytes_in": 3,
        "bytes_out": 1520,
        "user_agent": b"curl/8",
        "problem": "",
    }
    assert list(values) == ORDER
    return tuple((values | changes).values())


class Lines(list[bytes]):
    """A log's sink."""

    def __call__(self, data: bytes) -> None:
        self.append(data)

    @property
    def text(self) -> bytes:
        return b"".join(self)


def written(*records: Record, **options: Any) -> bytes:
    sink = Lines()
    writer = Writer(sink)
    log = AccessLog(writer, **options)
    for item in records:
        log.append(item)
    log.close()
    assert writer.close(5)
    return sink.text


def line(**changes: Any) -> dict[str, Any]:
    text = written(record(**changes))
    assert text.count(b"\n") == 1
    decoded: dict[str, Any] = json.loads(text)
    return decoded


def test_a_request_is_one_json_line_with_every_field() -> None:
    got = line()
    assert got.pop("timestamp").endswith("Z")
    assert got == {
        "level": "info",
        "event": "request",
        "request_id": "a91133ce-9a1b-4e37-8006-6e74fb8c550a",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "method": "GET",
        "route": "/api/v1/inventory/**",
        "path": "/api/v1/inventory/items",
        "status": 200,
        "duration_ms": 4.2,
        "upstream_ms": 3.0,
        "service": "inventory",
        "ended_by": "upstream",
        "phase": "body",
        "user_id": "u-1",
        "tenant_id": "t-1",
        "client_ip": "203.0.113.77",
        "bytes_in": 3,
        "bytes_out": 1520,
        "user_agent": "curl/8",
    }


def test_what_there_is_nothing_to_say_about_is_left_out() -> None:
    got = line(upstream=0.0, service="", trace=b"", user_id=None, tenant_id=None, user_agent=None)
    assert not {"upstream_ms", "service", "trace_id", "user_id", "tenant_id", "user_agent"} & got.keys()


def test_a_service_token_names_the_calling_service_and_a_refusal_its_problem() -> None:
    got = line(
        caller="demo-session", status=403, problem="tenant-forbidden", ended_by="gateway", phase="tenant"
    )
    assert (got["service_name"], got["problem"], got["phase"]) == (
        "demo-session",
        "tenant-forbidden",
        "tenant",
    )


@pytest.mark.parametrize(
    ("status", "level"), [(200, "info"), (404, "info"), (499, "info"), (500, "error"), (503, "error")]
)
def test_failures_are_errors(status: int, level: str) -> None:
    assert line(status=status)["level"] == level


def test_the_log_level_leaves_lines_out() -> None:
    records = [record(status=200), record(status=502)]
    assert written(*records, level=logging.INFO).count(b"\n") == 2
    assert [json.loads(text)["status"] for text in written(*records, level=logging.WARNING).splitlines()] == [
        502
    ]
    assert written(*records, level=logging.CRITICAL) == b""


def test_timestamps_are_the_end_of_each_request_not_of_the_flush() -> None:
    now = perf_counter()
    texts = written(record(ended=now - 90), record(ended=now)).splitlines()
    first, second = (json.loads(text)["timestamp"] for text in texts)
    assert first[:16] != second[:16]
    age = datetime.now(UTC) - datetime.fromisoformat(second)
    assert abs(age.total_seconds()) < 30


@pytest.mark.parametrize("field", ["path", "user_agent"])
@pytest.mark.parametrize(
    "evil",
    [
        b'/a\r\n{"event":"request","status":200}',
        b"/a\x1b[2J\x1b]0;owned\x07",
        b"/a\x9b31m",
        b"/a\x7f\x00\x08",
        b'/a","user_id":"admin',
        b"/a\\",
        b"/\xe2\x80\xae\xff\xe2\x80\xa8",
    ],
)
def test_what_a_client_sends_cannot_forge_lines_or_drive_a_terminal(field: str, evil: bytes) -> None:
    text = written(record(**{field: evil}))
    assert text.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in text.rstrip(b"\n"))
    assert json.loads(text)[field] == evil.decode("latin-1")
    pretty = written(record(**{field: evil}), encoder=PrettyLines(colour=False))
    assert pretty.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in pretty.rstrip(b"\n"))


@given(st.text(max_size=40), st.binary(max_size=40))
def test_any_text_survives_as_printable_ascii_json(user: str, path: bytes) -> None:
    made = Line(
        "t",
        "info",
        "request",
        "i",
        "GET",
        "/",
        path.decode("latin-1"),
        200,
        1.0,
        "c",
        "p",
        "",
        0,
        0,
        user_id=user,
    )
    text = JsonLines().requests([made])
    assert all(0x20 <= byte < 0x7F for byte in text.rstrip(b"\n"))
    decoded = json.loads(text)
    assert (decoded["user_id"], decoded["path"]) == (user, path.decode("latin-1"))


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        (b"/reset/eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "/reset/[redacted]"),
        (b"/x;token=abc/def;v=1", "/x;token=[redacted];v=1"),
        (b"/plain/a=b", "/plain/a=b"),
        (b"/" + b"a" * 2037 + b"eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "/" + "a" * 2037 + "[redacted]"),
    ],
)
def test_tokens_in_a_path_are_redacted(path: bytes, logged: str) -> None:
    assert line(path=path)["path"] == logged


def test_long_client_text_is_cut() -> None:
    got = line(path=b"/" * 10000, user_agent=b"a" * 10000)
    assert len(got["path"]) == 2048
    assert len(got["user_agent"]) == 256


def test_anonymized_lines_hold_networks_and_pseudonyms() -> None:
    options = {"anonymizer": Anonymizer(b"secret")}
    first = json.loads(written(record(), **options))
    again = json.loads(written(record(), anonymizer=Anonymizer(b"secret")))
    other = json.loads(written(record(), anonymizer=Anonymizer(b"other secret")))
    assert first["client_ip"] == "203.0.113.0/24"
    assert first["user_id"] == again["user_id"] != other["user_id"]
    assert "u-1" not in first["user_id"]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("fe80::1%eth0", "fe80::/48"),
        ("unix", ""),
        ("", ""),
    ],
)
def test_addresses_are_cut_to_their_network(address: str, network: str) -> None:
    assert Anonymizer(b"k").ip(address) == network


def test_the_line_before_a_request_shows_its_headers_without_secrets() -> None:
    sink = Lines()
    writer = Writer(sink)
    log = AccessLog(writer, level=logging.DEBUG)
    assert log.debug
    secrets = [
        (b"authorization", b"s3cret"),
        (b"cookie", b"session=s3cret"),
        (b"x-refresh-token", b"s3cret"),
        (b"x-demo-session-id", b"s3cret"),
        (b"sec-websocket-protocol", b"bearer, s3cret"),
        (b"referer", b"https://x.example/?token=s3cret"),
        (b"x-odd", b"Bearer s3cret"),
    ]
    log.pre_request("id", "GET", b"/a", "203.0.113.77", [*secrets, (b"accept", b"a"), (b"accept", b"b")])
    assert writer.close(5)
    assert b"s3cret" not in sink.text
    got = json.loads(sink.text)
    assert got["headers"]["accept"] == "a, b"
    assert (got["level"], got["event"], got["path"]) == ("debug", "request_started", "/a")
    assert not AccessLog(writer).debug


def test_pretty_lines_show_what_matters_and_colour_only_a_terminal() -> None:
    plain = written(
        record(status=403, problem="tenant-forbidden", ended_by="gateway"), encoder=PrettyLines(colour=False)
    )
    for part in (
        b"403",
        b"GET",
        b"/api/v1/inventory/items",
        b"4.2ms",
        b"problem=tenant-forbidden",
        b"gateway/body",
    ):
        assert part in plain
    assert b"\x1b[33m403" in written(record(status=403), encoder=PrettyLines(colour=True))


async def test_lines_appear_without_being_asked_for() -> None:
    sink = Lines()
    writer = Writer(sink)
    log = AccessLog(writer)
    log.start(asyncio.get_running_loop())
    for _ in range(2):
        before = len(sink)
        for _ in range(600):
            log.append(record())
        while len(sink) == before:
            await asyncio.sleep(0.005)
    assert sink.text.count(b"\n") == 1200
    log.close()
    assert writer.close(5)


async def test_a_stuck_reader_of_stdout_costs_lines_not_time() -> None:
    """The loop goes on while the pipe is full; lines beyond the queue's bound are counted."""
    reader, end = os.pipe()
    writer = Writer(FdSink(end), max_bytes=100_000)
    log = AccessLog(writer)
    for _ in range(20):
        for _ in range(100):
            log.append(record())
        log.flush()
    assert 0 < writer.dropped < 2000
    assert not writer.close(0.01)
    wanted = 2000 - writer.dropped
    text = b""
    while text.count(b"\n") < wanted:
        text += os.read(reader, 65536)
    for item in text.splitlines():
        json.loads(item)
    assert writer.close(5)
    os.close(reader)
    os.close(end)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "1970-01-01T00:00:00.000Z"), (1763863261.4159, "2025-11-23T02:01:01.415Z")]
)
def test_stamps_are_rfc_3339_in_utc(seconds: float, text: str) -> None:
    assert stamp(seconds) == text


@given(st.floats(min_value=0.001, max_value=10000))
def test_durations_have_three_decimals(seconds: float) -> None:
    told = line(seconds=seconds, upstream=seconds)
    assert told["duration_ms"] == told["upstream_ms"] == pytest.approx(seconds * 1000, abs=0.0011)


def test_each_line_has_its_own_millisecond() -> None:
    now = perf_counter()
    texts = written(*(record(ended=now + after) for after in (0, 0.001, 0.001, 0.5))).splitlines()
    first, *others = (datetime.fromisoformat(json.loads(text)["timestamp"]) for text in texts)
    for other, after in zip(others, (1, 1, 500), strict=True):
        assert (other - first).total_seconds() * 1000 == pytest.approx(after, abs=1.01)
