"""Handshake: on WebSocket routes only a WebSocket's opening request may come in, and a page's only from a known origin.

SECURITY: browsers send WebSocket handshakes from any page, with cookies and without a preflight (cross-site WebSocket
hijacking, RFC 6455 section 10.2). A client without `Origin` is no browser.
"""

from __future__ import annotations

from kernel.catalog import RouteRow
from kernel.exchange import Exchange
from kernel.handshake import is_handshake
from kernel.problems import ORIGIN_FORBIDDEN, UPGRADE_REQUIRED, Problem
from kernel.route import Stage
from kernel.state import State

_UPGRADE = UPGRADE_REQUIRED(headers=((b"upgrade", b"websocket"), (b"connection", b"upgrade")))


def make(state: State, row: RouteRow) -> Stage | None:
    """The stage of WebSocket routes."""
    if not row.websocket:
        return None
    allowed = state.cors.allowed

    def handshake(x: Exchange) -> Problem | None:
        if not is_handshake(x):
            return _UPGRADE
        origin = x.captured.get(b"origin")
        if origin is None or allowed(origin):
            return None
        host = x.captured.get(b"host", b"")
        if host and origin in {b"https://" + host, b"http://" + host}:
            return None
        return ORIGIN_FORBIDDEN()

    return handshake
