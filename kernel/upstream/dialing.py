"""Making a connection to an address of a service, whatever speaks over it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from kernel.upstream.address import Address

# RFC 8305 section 5: how long the first address is given before the next is tried beside it.
_HEAD_START = 0.25

_P = TypeVar("_P", bound=asyncio.BaseProtocol)
_Pair = tuple[asyncio.BaseTransport, _P]


async def dial(
    make: Callable[[], _P], address: Address, ips: tuple[str, ...], tls: ssl.SSLContext | None
) -> _P:
    """Connect to `address` at the first of `ips` that answers; by its name when there are none.

    Raises:
        OSError: no connection was made; ssl.SSLError is one.
    """
    loop = asyncio.get_running_loop()
    if address.path:
        _, made = await loop.create_unix_connection(make, address.path)
        return made
    # The name is what the certificate is for, whatever the address.
    name = address.host if tls else None

    async def connect(host: str) -> _Pair[_P]:
        return await loop.create_connection(make, host, address.port, ssl=tls, server_hostname=name)

    if len(ips) > 1:
        _, made = await _first([partial(connect, ip) for ip in ips])
    else:
        _, made = await connect(ips[0] if ips else address.host)
    return made


async def _first(ways: list[Callable[[], Awaitable[_Pair[_P]]]]) -> _Pair[_P]:
    """What the first of `ways` to succeed gives: each has a head start before the next, or until it has failed."""
    pending: set[asyncio.Future[_Pair[_P]]] = set()
    failures: list[BaseException] = []
    try:
        for place in range(len(ways)):
            pending.add(asyncio.ensure_future(ways[place]()))
            last = place == len(ways) - 1
            while pending:
                done, _ = await asyncio.wait(
                    pending,
                    timeout=None if last else _HEAD_START,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for way in done:
                    pending.discard(way)
                    failure = way.exception()
                    if failure is None:
                        return way.result()
                    failures.append(failure)
                if not last:
                    break
        raise failures[0]
    finally:
        for way in pending:
            way.add_done_callback(_hang_up)
            way.cancel()


def _hang_up(way: asyncio.Future[Any]) -> None:
    """Drop what came too late."""
    if not way.cancelled() and way.exception() is None:
        way.result()[0].abort()
