"""What stays open: alert streams, and WebSockets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import uvloop

from bench import sse, websocket
from bench.families.base import Context, Outcome
from bench.report import Target

_STREAMS = ((1000, 25, 5.0), (5000, 10, 1.0))  # streams, alerts, alerts a second


def streams(context: Context) -> Outcome:
    """An alert to 1,000 and to 5,000 streams on one worker."""
    figures: dict[str, object] = {}
    measured: dict[tuple[str, int], sse.Figures] = {}
    body = []
    notes = ["nchan has no tokens, tenants or store, and forgets what it has not delivered when it ends"]
    kinds = {
        "Bakery Gateway": ["--peer=gateway"],
        "Bakery Gateway, HTTP2=true": ["--peer=gateway", "--http2"],
    }
    if any(Path("/usr/lib/nginx/modules").glob("*nchan*")):
        kinds["nginx + nchan"] = ["--peer=nchan"]
    else:
        notes = ["nginx with nchan is not installed: apt-get install libnginx-mod-nchan"]
    for count, alerts, rate in _STREAMS:
        for title, kind in kinds.items():
            found, problems = sse.measure(
                [*kind, f"--streams={count}", f"--alerts={alerts}", f"--rate={rate:g}"]
            )
            context.say(
                f"{count:,} streams: {title}: p99 {found.p99:.0f} ms, {found.memory:.1f} KiB a stream"
            )
            figures[f"{title}, {count}"] = {**asdict(found), "problems": problems}
            measured[title, count] = found
            body.append(
                [
                    title,
                    f"{count:,}",
                    f"{found.p50:.1f}",
                    f"{found.p99:.1f}",
                    f"{found.cpu:.1f}",
                    f"{found.memory:.1f}",
                    str(found.expected - found.received),
                ]
            )
    own = measured["Bakery Gateway", 1000]
    targets = [
        Target("an alert to 1,000 streams, 99th percentile, ms", 100, own.p99, at_most=True),
        Target("memory of a stream, KiB", 20, own.memory, at_most=True),
    ]
    head = [
        "peer",
        "streams",
        "alert to all: p50 ms",
        "p99 ms",
        "CPU us/delivery",
        "KiB a stream",
        "not delivered",
    ]
    return Outcome(head, body, figures, notes, targets)


def sockets(context: Context) -> Outcome:
    """32 sockets that ask in turn, then one that floods."""
    found = uvloop.run(
        websocket.measure(context.rig, rounds=context.rounds, sockets=32, seconds=context.seconds)
    )
    context.say("sockets measured")
    head, body = websocket.cells(found)
    figures = {name: [asdict(each) for each in rounds] for name, rounds in found.items()}
    notes = [
        "nginx passes bytes on and knows no messages, tokens or policies; the client is the bottleneck, so compare CPU"
    ]
    return Outcome(head, body, figures, notes)
