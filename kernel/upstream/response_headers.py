"""What becomes of each header of a service's response."""

from __future__ import annotations

import re

from kernel.http.headers import HOP_BY_HOP, said_by_gateway
from kernel.primitives.memo import keep

# What a header of a response is to us, when it is not simply passed on under its lower-case name.
DROP, LENGTH, ENCODING, CONNECTION, KEEP_ALIVE, LOCATION, CONTENT_LOCATION = 0, 1, 2, 3, 4, 5, 6
_SPECIAL = {
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"connection": CONNECTION,
    b"keep-alive": KEEP_ALIVE,
    b"location": LOCATION,
    b"content-location": CONTENT_LOCATION,
}
LOCATIONS: dict[int, bytes] = {LOCATION: b"location", CONTENT_LOCATION: b"content-location"}
_MEMO_LIMIT = 1024
_ABSOLUTE = re.compile(rb"(?:https?:)?//([^/?#\\]*)(.*)", re.IGNORECASE | re.DOTALL)


class ResponseHeaders(dict[bytes, bytes | int]):
    """Response header name as sent -> its lower-case form to pass on, or one of the codes above. A bounded memo."""

    def __missing__(self, name: bytes) -> bytes | int:
        lower = name.lower()
        kind: bytes | int = _SPECIAL.get(lower, lower)
        if kind is lower and said_by_gateway(lower):
            kind = DROP
        return keep(self, name, kind, _MEMO_LIMIT)


class TransportHeaders(ResponseHeaders):
    """The same for a client that is no gateway: only the fields of this hop are dropped."""

    def __missing__(self, name: bytes) -> bytes | int:
        lower = name.lower()
        kind: bytes | int = _SPECIAL.get(lower, lower)
        if kind is lower and lower in HOP_BY_HOP:
            kind = DROP
        return keep(self, name, kind, _MEMO_LIMIT)


def reference(value: bytes, own: frozenset[bytes]) -> bytes:
    """A Location as clients are told it: one at a replica's `own` authority (lower case) without it; others as they are.

    Frameworks make absolute URLs of the Host they are sent, and it is not the client's: a redirect that adds a slash would
    lead to a name that only the cluster knows. A reference without an authority keeps the one the client asked, whatever
    balancers are between (RFC 9110 section 10.2.2), and its scheme.

    SECURITY: two slashes in front would make a host of the path, as would what browsers take for a slash or leave out.
    """
    found = _ABSOLUTE.fullmatch(value)
    if found is None or found[1].lower() not in own:
        return value
    rest = found[2].replace(b"\t", b"")
    if rest[:1] not in {b"/", b"\\"}:
        return b"/" + rest
    return b"/." + rest if rest[1:2] in {b"/", b"\\"} or rest[:1] != b"/" else rest
