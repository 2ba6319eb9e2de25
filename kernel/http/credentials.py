"""Credentials of clients that cannot set headers: EventSource has only a URL, a browser's WebSocket also subprotocols.

    ?ticket=<one-time ticket>     see kernel/identity/tickets.py
    ?token=<JWT>
    Sec-WebSocket-Protocol: bearer, <JWT>[, what the service speaks ...]

They are taken out of the request before anything else reads, logs or forwards it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

# The subprotocol that announces a token as the next one, and the one to answer with when the service chose none: a
# browser closes a connection whose offer was not answered with one of its own names, and the token must not be it.
BEARER = "bearer"
_TICKET = b"ticket"
_TOKEN = b"token"


class InQuery(NamedTuple):
    """What a query held: the credentials' values, decoded, and the query without them."""

    tickets: list[bytes]
    tokens: list[bytes]
    rest: bytes


def split_query(query: bytes) -> InQuery:
    """Take the credentials out of a raw query; every other byte of it stays as and where it was.

    SECURITY: names are compared decoded: `%74oken=` is `token=` to whoever reads the query behind us.
    """
    tickets: list[bytes] = []
    tokens: list[bytes] = []
    rest: list[bytes] = []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if b"%" in name:
            name = unquote_to_bytes(name)
        if name == _TICKET:
            tickets.append(unquote_to_bytes(value))
        elif name == _TOKEN:
            tokens.append(unquote_to_bytes(value))
        else:
            rest.append(part)
    return InQuery(tickets, tokens, b"&".join(rest))


def split_protocols(offered: Sequence[str]) -> tuple[bytes | None, list[str]]:
    """(token, the other subprotocols in their order) of a WebSocket client's offer; no token without `bearer`.

    Raises:
        ValueError: `bearer` without a token after it, more than once, or followed by what no token can be.
    """
    if BEARER not in offered:
        return None, list(offered)
    at = offered.index(BEARER)
    if at + 1 == len(offered):
        raise ValueError("the subprotocol 'bearer' must be followed by a token")
    token, rest = offered[at + 1], [*offered[:at], *offered[at + 2 :]]
    if BEARER in (token, *rest):
        raise ValueError("the subprotocol 'bearer' must be offered once")
    if not token.isascii():
        raise ValueError("the subprotocol after 'bearer' is no token")
    return token.encode(), rest
