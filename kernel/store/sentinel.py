"""Asking the sentinels which server is the master now."""

from __future__ import annotations

from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from kernel.store.address import Address, Node


async def find_master(address: Address, *, within: float, first: int = 0) -> Node:
    """Host and port of the service's master, from the first sentinel that knows; each has `within` seconds to answer.

    They are asked in turn, beginning with the one of the number `first`, modulo how many there are. Raises
    redis.RedisError or OSError.
    """
    tls = {name: value for name, value in address.options.items() if name.startswith("ssl_")}
    options = {
        **address.sentinel_options,
        **tls,
        "ssl": address.tls,
        "socket_timeout": within,
        "socket_connect_timeout": within,
        "retry": Retry(NoBackoff(), 0),
        "driver_info": None,
    }
    nodes = [node for node in address.endpoints if isinstance(node, tuple)]
    first %= len(nodes)
    sentinel = Sentinel(nodes[first:] + nodes[:first], sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    try:
        host, port = await sentinel.discover_master(address.service)
        return host, int(port)
    finally:
        for client in sentinel.sentinels:
            await client.aclose()
