"""Whether a replica answers anything at all, asked of one whose requests are not answered in time."""

from __future__ import annotations

import asyncio

from kernel.upstream.http1 import NEVER
from kernel.upstream.pool import Pool

_SECONDS = 2.0


async def responds(pool: Pool, head: bytes) -> bool:
    """Whether the request `head` is answered, with whatever, within two seconds.

    On a connection beside the pool's, of which those that hang may have taken all.
    """
    try:
        async with asyncio.timeout(_SECONDS):
            connection = await pool.connect()
            try:
                await connection.start(head, False, NEVER)
                return connection.error is None
            finally:
                connection.abort()
    except (OSError, TimeoutError):
        return False
