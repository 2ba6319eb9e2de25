"""What a gRPC service is told of a request beside its message: of an HTTP service's headers the ones that are named here."""

from __future__ import annotations

import re

from kernel.exchange.exchange import Exchange
from kernel.http.headers import TRUSTED
from kernel.telemetry.trace import Tracer
from kernel.upstream.request_headers import header_lines

Metadata = tuple[tuple[str, str | bytes], ...]

# SECURITY: of the client's own. Anything else it sends could be a name that means something to the service's framework.
CLIENTS = frozenset({b"authorization", b"accept-language", b"idempotency-key", b"traceparent", b"tracestate"})
_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})
TOLD = TRUSTED | CLIENTS | _FORWARDED
# PROTOCOL-HTTP2: ASCII-Value = 1*( %x20-%x7E )
_OUTSIDE = re.compile(rb"[^ -~]")
_CODED = re.compile(rb"[^ -$&-~]")


def metadata(x: Exchange, tracer: Tracer, told: frozenset[bytes]) -> Metadata:
    """Of those that are `told`: names in lower case; a value that is not ASCII is percent-encoded, its percent signs too.

    Sets `x.trace`.
    """
    lines = header_lines(x, tracer, refresh_token=False).split(b"\r\n")
    pairs = (line.partition(b": ") for line in lines)
    return tuple((name.decode(), _value(name, value)) for name, _, value in pairs if name in told and value)


def _value(name: bytes, value: bytes) -> str | bytes:
    if name.endswith(b"-bin"):
        return value  # grpcio encodes these
    if _OUTSIDE.search(value):
        value = _CODED.sub(lambda found: b"%%%02X" % found[0][0], value)
    return value.decode("ascii")
