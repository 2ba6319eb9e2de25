"""Where a request is, as the access log's `phase` says where it ended.

    edge .. critical     the stages, by their `NAME` (kernel/stages)
    router               no route was found, or it does not answer the method
    idempotency          the request's Idempotency-Key is judged
    replayed             the answer kept under it was sent whole
    request-body         the forwarder reads the body
    connect              it takes a connection to the service
    response-head        the request is sent, the response's head is awaited
    response-body        the response is relayed
    handshake            a service's socket is opened; then
    websocket            messages are relayed
    stream               an alert stream is open
    done                 the answer was sent whole
    (a handler's name)   an endpoint of the gateway's own

The forwarder's run in this order: request-body -> connect -> response-head -> response-body -> done; a retry goes back to
`connect`. Any of them may be the last.

PERF: typed strings, not an enum: setting one takes 24 ns, through an enum's class 80, four times a request.
"""

from __future__ import annotations

from typing import Final, NewType

Phase = NewType("Phase", str)

EDGE: Final = Phase("edge")
ROUTER: Final = Phase("router")
IDEMPOTENCY: Final = Phase("idempotency")
REPLAYED: Final = Phase("replayed")
REQUEST_BODY: Final = Phase("request-body")
CONNECT: Final = Phase("connect")
RESPONSE_HEAD: Final = Phase("response-head")
RESPONSE_BODY: Final = Phase("response-body")
HANDSHAKE: Final = Phase("handshake")
WEBSOCKET: Final = Phase("websocket")
STREAM: Final = Phase("stream")
DONE: Final = Phase("done")
