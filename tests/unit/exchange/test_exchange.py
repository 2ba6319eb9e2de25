from __future__ import annotations

import pytest

from kernel.exchange.exchange import Exchange
from kernel.http.problems import BODY_TOO_LARGE, GatewayError
from tests.support.scripted_upstream import Client


async def test_a_request_is_forgotten_but_for_what_the_access_log_says() -> None:
    x: Exchange = Client(
        headers=[(b"user-agent", b"browser"), (b"authorization", b"Bearer e"), (b"a", b"b")]
    ).x
    x.token = b"e"
    await x.start(200, [])
    x.forget_request()
    assert x.captured == {b"user-agent": b"browser"}
    assert not any((x.token, x.limits, x.lines, x.scope))
    assert (x.method, x.raw_path, x.request_id) == ("GET", b"/items", "request-id")


async def everything(x: Exchange) -> bytes:
    read = b""
    while part := await x.read():
        read += part
    return read


@pytest.mark.parametrize("parts", [[b"0123456789"], [b"01234", b"56789"]])
async def test_a_body_of_just_the_limit_passes_and_a_byte_more_does_not(parts: list[bytes]) -> None:
    whole, over = (Client("POST", body=body, length=-1).x for body in (parts, [*parts, b"x"]))
    whole.max_body = over.max_body = 10
    assert await everything(whole) == b"0123456789"
    with pytest.raises(GatewayError) as error:
        await everything(over)
    assert error.value.problem.kind is BODY_TOO_LARGE
