"""The demo's view of the gateway's log."""

from __future__ import annotations

import msgspec

from demo.follow import Follower, Style

REQUEST = {
    "timestamp": "2026-01-19T16:31:11.123Z",
    "level": "info",
    "event": "request",
    "method": "GET",
    "path": "/api/v1/orders",
    "status": 200,
    "duration_ms": 1.25,
    "service": "orders",
    "user_id": "u1",
}


def line(**changes: object) -> bytes:
    return msgspec.json.encode(REQUEST | changes) + b"\n"


def follower() -> tuple[Follower, list[float]]:
    now = [100.0]
    return Follower(Style(False), {"u1": "Lucía"}, lambda: now[0]), now


def test_request_is_one_short_line_with_the_person_s_name() -> None:
    (shown,) = follower()[0].feed(line())
    assert shown.split() == ["16:31:11", "200", "GET", "/api/v1/orders", "1.2", "ms", "orders", "Lucía"]


def test_line_cut_anywhere_is_shown_once() -> None:
    whole = line() + line(status=404, problem="route-unknown")
    for cut in range(len(whole)):
        seen = follower()[0]
        shown = [*seen.feed(whole[:cut]), *seen.feed(whole[cut:])]
        assert len(shown) == 2
        assert shown[1].endswith("route-unknown")


def test_escape_sequences_do_not_reach_the_terminal() -> None:
    seen = follower()[0]
    for data in (line(path="/\x1b[2J"), b"\x1b]0;title\x07\n", line(event="x\x1b", level="error")):
        assert "\x1b" not in "".join(seen.feed(data))


def test_warnings_are_shown_and_other_events_are_not() -> None:
    seen = follower()[0]
    assert not list(seen.feed(line(event="ready", status=None)))
    (shown,) = seen.feed(b'{"level":"warning","event":"store down","tries":2}\n')
    assert shown.endswith("warning store down tries=2")


def test_flood_is_counted_instead_of_shown() -> None:
    seen, now = follower()
    assert len(list(seen.feed(line() * 1500))) == 40
    now[0] += 1
    (summary,) = seen.feed(b"")
    assert summary.endswith("... and 1,460 more requests")
    assert len(list(seen.feed(line()))) == 1


def test_a_failure_is_seen_in_a_flood() -> None:
    (*_, last) = follower()[0].feed(line() * 100 + line(status=500))
    assert " 500 " in last
