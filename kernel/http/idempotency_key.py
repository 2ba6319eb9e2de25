"""Idempotency-Key: a request's key, the same for both of its spellings.

draft-ietf-httpapi-idempotency-key-header section 2: the field is a String of RFC 9651, so quoted; nearly all clients send it
bare.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from kernel.http.headers import connection_options
from kernel.http.problems import IDEMPOTENCY_KEY_INVALID, GatewayError

NAME = b"idempotency-key"
MOST_BYTES = 255
_BARE = re.compile(rb"[!#-~][!-~]*")
# RFC 9651 section 3.3.3, less the space: what is quoted is visible, a quote or a backslash is escaped. Parameters (section
# 3.1.2) may follow; none has a meaning.
_QUOTED = re.compile(
    rb"""
    "( (?: [!\x23-\x5b\x5d-~] | \\["\\] )+ )"
    (?: ;\x20* [a-z*][a-z0-9_.*-]* (?: =
        (?: -?[0-9]{1,15}(?:\.[0-9]{1,3})? | "(?: [\x20!\x23-\x5b\x5d-~] | \\["\\] )*" | \?[01] | @-?[0-9]{1,15}
          | [A-Za-z*][!\x23$%&'*+.^_`|~:/0-9A-Za-z-]* | :[A-Za-z0-9+/=]*: | %"[\x20!\x23-~]*" )
    )? )*
    """,
    re.VERBOSE,
)
_ESCAPED = re.compile(rb'\\(["\\])')


def given(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """The values of the request's field lines."""
    return [value for name, value in headers if name == NAME]


def parse(values: Sequence[bytes], connection: bytes | None = None) -> bytes:
    """The key, the same for both of its spellings. `connection`: the request's, if it has one.

    Raises:
        GatewayError: IDEMPOTENCY_KEY_INVALID.
    """
    if len(values) != 1:
        raise GatewayError(IDEMPOTENCY_KEY_INVALID("Idempotency-Key was sent more than once."))
    if connection is not None and NAME in connection_options(connection):
        # The service would not be handed it.
        raise GatewayError(
            IDEMPOTENCY_KEY_INVALID("Idempotency-Key is end-to-end: Connection cannot name it.")
        )
    value = values[0].strip(b" \t")
    quoted = _QUOTED.fullmatch(value)
    key = _ESCAPED.sub(rb"\1", quoted[1]) if quoted is not None else value
    if (quoted is None and _BARE.fullmatch(value) is None) or len(key) > MOST_BYTES:
        raise GatewayError(IDEMPOTENCY_KEY_INVALID())
    return key
