"""Inner requests: what the gateway asks on behalf of a request that is under way, by the way that every request takes."""

from __future__ import annotations

from kernel.exchange.asgi import HeaderList, Receive, Scope, Send
from kernel.exchange.exchange import Exchange
from kernel.http.headers import HeaderKinds

# The type of its scope, whose `parent` is the exchange that it is made for.
INNER = "inner"


def inner_exchange(
    scope: Scope,
    receive: Receive,
    send: Send,
    kinds: HeaderKinds,
    ids: tuple[str, bytes, bytes],
    baseline: HeaderList,
) -> Exchange:
    """An exchange with the request id of the one that it is made for: both are one in logs and traces."""
    parent: Exchange = scope["parent"]
    return Exchange(scope, receive, send, kinds, (parent.request_id, parent.extra[0][1], b""), baseline)
