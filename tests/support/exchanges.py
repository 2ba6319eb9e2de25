"""Exchanges for tests that need one and no request."""

from __future__ import annotations

from typing import Any, cast

from kernel.exchange.exchange import Exchange
from kernel.http.headers import HeaderKinds


def exchange(**scope: Any) -> Exchange:
    """One of a GET without headers; `scope` changes what ASGI would say of it. Nobody is at either end."""
    given = {
        "method": "GET",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        **scope,
    }
    nobody = cast("Any", None)
    return Exchange(given, nobody, nobody, HeaderKinds(), ("request-id", b"request-id", b""), [])
