"""What a service is told of a request: the client's own header lines, then the gateway's."""

from __future__ import annotations

from kernel.exchange.exchange import Exchange
from kernel.http.addresses import canonical
from kernel.http.cookies import REFRESH_TOKEN, without
from kernel.http.headers import connection_options
from kernel.telemetry.trace import Tracer, sound_state

_PLAIN = b"\r\nx-forwarded-proto: http\r\nx-forwarded-host: "
_SECURE = b"\r\nx-forwarded-proto: https\r\nx-forwarded-host: "


def header_lines(x: Exchange, tracer: Tracer, *, refresh_token: bool) -> bytes:
    """All header lines but Host and framing. Sets `x.trace`. `refresh_token`: the service may see it; only its issuer may."""
    captured = x.captured
    given = captured.get(b"traceparent")
    child = tracer.child(given) if given is not None else None
    if child is None:
        trace = x.trace or tracer.start(x.request_id)
    elif b"tracestate" in captured and sound_state(captured[b"tracestate"]):
        trace = child + b"\r\ntracestate: " + captured[b"tracestate"]
    else:
        trace = child
    x.trace = trace
    lines = x.lines
    # SECURITY: who holds it can become the user for a week; only its issuer needs it.
    if not refresh_token and b"cookie" in captured and REFRESH_TOKEN in captured[b"cookie"]:
        lines = _without_refresh_token(lines, captured[b"cookie"])
    if b"connection" in captured:
        named = connection_options(captured[b"connection"])
        if named:
            lines = _without(lines, named)
    client = x.client_ip
    if x.peer_trusted and b"x-forwarded-for" in captured:
        chain = captured[b"x-forwarded-for"].decode("latin-1").strip(", ")
        peer = canonical(x.scope["client"][0])
        client = f"{chain}, {peer}" if chain else peer
    # PERF: joined from pieces (0.2 us), not formatted (0.5 us).
    lines += (
        b"x-request-id: ",
        x.extra[0][1],
        b"\r\nx-forwarded-for: ",
        client.encode("latin-1"),
        _SECURE if x.secure else _PLAIN,
        captured.get(b"host", b""),
        b"\r\nx-forwarded-by: bakery-gateway\r\ntraceparent: ",
        trace,
        b"\r\n",
        x.context,
    )
    return b"".join(lines)


def host_line(x: Exchange, stand_in: bytes) -> bytes:
    """The client's Host, for a service that wants it; `stand_in` when it said none, as HTTP/1.0 may."""
    return b"host: %b\r\n" % (x.captured.get(b"host") or stand_in)


def _without(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    """`lines` less the fields that the client's `Connection` names (RFC 9110 section 7.6.1)."""
    return [line for line in lines if line.partition(b":")[0] not in names]


def _without_refresh_token(lines: list[bytes], cookies: bytes) -> list[bytes]:
    """`lines` with the client's `cookies` less the refresh token."""
    left = without(cookies, REFRESH_TOKEN)
    lines = [line for line in lines if not line.startswith(b"cookie:")]
    if left:
        lines.append(b"cookie: %b\r\n" % left)
    return lines
