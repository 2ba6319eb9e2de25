"""Credentials: on routes that browsers open without headers, what came in the query or as a subprotocol.

A token found there is from here on one that came in `Authorization`; a ticket waits for the authentication stage, so that
the limiter is paid before the store is asked. Every other route ignores both.
"""

from __future__ import annotations

from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.credentials import split_protocols, split_query
from kernel.http.key_problems import CREDENTIALS_AMBIGUOUS
from kernel.http.problems import BAD_REQUEST, Problem
from kernel.primitives.api_key import HEADER as API_KEY
from kernel.routing.catalog import RouteRow
from kernel.state import State

NAME: Final = Phase("credentials")

_ONE = BAD_REQUEST(
    "More than one credential came. Send one of: 'Authorization', '?ticket=', '?token=', "
    "the WebSocket subprotocols 'bearer, <token>'."
)
_PROTOCOLS = b"sec-websocket-protocol:"


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    if not row.browser:
        return ""
    return "a ticket or token may come in the query, a token as a WebSocket subprotocol"


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of browsers' routes. Sets `x.ticket`; `x.query` and the offered subprotocols lose the credentials."""
    if not row.browser:
        return None

    def credentials(x: Exchange) -> Problem | None:
        x.ticket = None
        found: list[bytes] = []
        if x.query:
            tickets, found, x.query = split_query(x.query)
            if tickets:
                x.ticket = tickets[0]
                if len(tickets) > 1 or found:
                    return _ONE
        offered = x.scope.get("subprotocols")
        if offered:
            try:
                token, others = split_protocols(offered)
            except ValueError as error:
                return BAD_REQUEST(f"The offer of subprotocols is not understood: {error}.")
            if token is not None:
                found.append(token)
                x.scope["subprotocols"] = others
                x.lines = [line for line in x.lines if not line.startswith(_PROTOCOLS)]
        credentials = len(found) + (x.ticket is not None) + (b"authorization" in x.captured)
        if credentials and API_KEY in x.captured:
            return CREDENTIALS_AMBIGUOUS()
        if credentials > 1:
            return _ONE
        if found:
            value = b"Bearer " + found[0]
            x.captured[b"authorization"] = value
            # SECURITY: decoded from the query, so it may hold what no header can; only a sound one is verified and sent on.
            if found[0].isascii() and found[0].decode().isprintable():
                x.lines.append(b"authorization: %b\r\n" % value)
        return None

    return credentials
