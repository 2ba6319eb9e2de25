"""Handshake: on WebSocket routes only a WebSocket's opening request may come in, and a page's only from a known origin.

SECURITY: browsers send WebSocket handshakes from any page, with cookies and without a preflight (cross-site WebSocket
hijacking, RFC 6455 section 10.2). A client without `Origin` is no browser.
"""

from __future__ import annotations

import re
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.exchange.websocket import is_handshake
from kernel.http.headers import HTTP_1_0
from kernel.http.problems import BAD_REQUEST, ORIGIN_FORBIDDEN, UPGRADE_REQUIRED, Problem
from kernel.routing.catalog import RouteRow
from kernel.state import State

NAME: Final = Phase("handshake")

_UPGRADE = UPGRADE_REQUIRED(headers=((b"upgrade", b"websocket"), (b"connection", b"upgrade")))

_NO_GET = BAD_REQUEST("A WebSocket is opened with a GET that has no body.")
# RFC 6455 section 4.2.1.
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")


def _key(x: Exchange) -> bytes:
    return b", ".join(value for name, value in x.scope["headers"] if name == b"sec-websocket-key")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    return "a WebSocket handshake, from a page of those origins or from no browser" if row.websocket else ""


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of WebSocket routes."""
    if not row.websocket:
        return None
    allowed = state.cors.allowed

    def handshake(x: Exchange) -> Problem | None:
        version = x.scope["http_version"]
        if not is_handshake(x) or version in HTTP_1_0:
            return _UPGRADE
        # The server takes any method for a handshake and does not tell which: a preflight and a body are no GET's.
        body = x.content_length not in {-1, 0} or b"transfer-encoding" in x.captured
        if body or b"access-control-request-method" in x.captured:
            return _NO_GET
        if version != "2" and not _KEY.fullmatch(_key(x)):
            return BAD_REQUEST("Sec-WebSocket-Key must be 16 bytes, in base64.")
        origin = x.captured.get(b"origin")
        if origin is None or allowed(origin):
            return None
        host = x.captured.get(b"host", b"")
        if host and origin in {b"https://" + host, b"http://" + host}:
            return None
        return ORIGIN_FORBIDDEN()

    return handshake
