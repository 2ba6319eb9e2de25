"""All keys of a pattern, from every server that holds some: for commands of people, never for a request."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from redis.exceptions import RedisError

from kernel.store.errors import StoreDown, StoreRefused
from kernel.store.reasons import reason
from kernel.store.redis import Store

_COUNT = 1000
_SPECIAL = re.compile(r"[\\*?\[\]^]")


def literal(text: str) -> str:
    """`text` as a pattern that only it matches."""
    return _SPECIAL.sub(r"\\\g<0>", text)


async def scan(store: Store, pattern: str, *, most: int, seconds: float) -> list[str]:
    """The first `most` keys that match, in order of their names. Raises StoreError, after `seconds` at the latest."""
    found: set[str] = set()
    try:
        async with asyncio.timeout(seconds):
            for endpoint in await store.endpoints():
                connection = store.connection(endpoint)
                try:
                    await connection.connect()  # type: ignore[no-untyped-call]
                    cursor: Any = b"0"
                    while len(found) < most:
                        await connection.send_command("SCAN", cursor, "MATCH", pattern, "COUNT", _COUNT)
                        cursor, keys = await connection.read_response()
                        found.update(key.decode("utf-8", "surrogateescape") for key in keys)
                        if cursor == b"0":
                            break
                finally:
                    await connection.disconnect()
    except TimeoutError:
        raise StoreDown("not all keys in time") from None
    except (RedisError, OSError) as error:
        raise (StoreRefused if "NOPERM" in str(error) else StoreDown)(reason(error)) from error
    return sorted(found)[:most]
