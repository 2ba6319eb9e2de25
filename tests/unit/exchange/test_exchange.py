from __future__ import annotations

from kernel.exchange.exchange import Exchange
from kernel.exchange.lasting import forget_request
from tests.support.scripted_upstream import Client


async def test_a_request_is_forgotten_but_for_what_the_access_log_says() -> None:
    x: Exchange = Client(
        headers=[(b"user-agent", b"browser"), (b"authorization", b"Bearer e"), (b"a", b"b")]
    ).x
    x.token = b"e"
    await x.start(200, [])
    forget_request(x)
    assert x.captured == {b"user-agent": b"browser"}
    assert not any((x.token, x.limits, x.lines, x.scope))
    assert (x.method, x.raw_path, x.request_id) == ("GET", b"/items", "request-id")
