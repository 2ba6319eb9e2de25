"""What becomes of each header of a service's response."""

from __future__ import annotations

from kernel.http.headers import HOP_BY_HOP

# What a header of a response is to us, when it is not simply passed on under its lower-case name.
DROP, LENGTH, ENCODING, CONNECTION, KEEP_ALIVE = 0, 1, 2, 3, 4
_SPECIAL = {
    b"content-length": LENGTH,
    b"transfer-encoding": ENCODING,
    b"connection": CONNECTION,
    b"keep-alive": KEEP_ALIVE,
}
# The gateway says these itself; a service's copy would contradict or double it.
_OURS = frozenset(
    {
        b"ratelimit",
        b"ratelimit-policy",
        b"strict-transport-security",
        b"x-content-type-options",
        b"x-ratelimit-limit",
        b"x-ratelimit-remaining",
        b"x-ratelimit-reset",
        b"x-request-id",
    }
)
_MEMO_LIMIT = 1024


class ResponseHeaders(dict[bytes, bytes | int]):
    """Response header name as sent -> its lower-case form to pass on, or one of the codes above. A bounded memo."""

    def __missing__(self, name: bytes) -> bytes | int:
        lower = name.lower()
        kind: bytes | int = _SPECIAL.get(lower, lower)
        if kind is lower and (lower in HOP_BY_HOP or lower in _OURS or lower.startswith(b"access-control-")):
            kind = DROP
        if len(self) < _MEMO_LIMIT:
            self[name] = kind
        return kind


class TransportHeaders(ResponseHeaders):
    """The same for a client that is no gateway: only the fields of this hop are dropped."""

    def __missing__(self, name: bytes) -> bytes | int:
        lower = name.lower()
        kind: bytes | int = _SPECIAL.get(lower, lower)
        if kind is lower and lower in HOP_BY_HOP:
            kind = DROP
        if len(self) < _MEMO_LIMIT:
            self[name] = kind
        return kind
