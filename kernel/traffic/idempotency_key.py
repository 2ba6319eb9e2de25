"""What an Idempotency-Key stands for: whose it is, and which request it was first used for.

draft-ietf-httpapi-idempotency-key-header section 2: the field is a String of RFC 9651, so quoted; nearly all clients send it
bare. Both spellings of a key are one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from secrets import token_hex

from kernel.exchange.asgi import HeaderList
from kernel.exchange.exchange import Exchange
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


def given(x: Exchange) -> list[bytes]:
    """The values of the request's field lines."""
    return [value for name, value in x.scope["headers"] if name == NAME]


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


class Keyed:
    """A request under its key. `name` is the record's; `tag` is the same for the same request; `secret` seals its answer.

    SECURITY: whose the key is goes into its name: what somebody else guesses names no record. The secret is made of the key
    and of the whole request, which the store never sees: who reads the store cannot read answers, who writes to it cannot
    make one up, and who guesses a key gets no answer to a request that they do not know.
    """

    __slots__ = ("name", "owner", "renewed", "secret", "tag")

    def __init__(self, x: Exchange, key: bytes, body: bytes) -> None:
        caller = x.caller
        whose = (
            caller.kind,
            caller.user_id,
            caller.service or "",
            caller.demo_session_id or "",
            x.tenant or "",
        )
        name = _digest([*(part.encode("utf-8", "surrogatepass") for part in whose), key])
        fields = (
            _field(x.scope["headers"], b"content-type"),
            _field(x.scope["headers"], b"content-encoding"),
        )
        request = _digest((x.method.encode(), x.raw_path, x.query, *fields, body))
        self.name = name.hex()
        self.tag = _digest((b"tag", name, request)).hex()[:32]
        self.secret = _digest((b"secret", name, key, request))
        # Not the request's id: what a proxy sends again may have the same.
        self.owner = token_hex(8)
        self.renewed = 0.0


def _field(headers: HeaderList, name: bytes) -> bytes:
    return b", ".join(value.strip() for each, value in headers if each == name)


def _digest(parts: Iterable[bytes]) -> bytes:
    """SHA-256 of `parts`, each with its length, so that no two lists are one text."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(b"%d:" % len(part))
        whole.update(part)
    return whole.digest()
