"""A worker that follows keys, as a process: `python -m tests.support.tracked_worker STORE_URL`.

Answers each line on stdin: `until KEY VALUE` once `get(KEY)` gives VALUE ("-": no such key), `live` once tracking is.
"""

from __future__ import annotations

import asyncio
import sys

from kernel.store.redis import Store
from kernel.store.tracked import TrackedMap


async def value(tracked: TrackedMap, key: str) -> str | None:
    """What the map says, read if need be."""
    known = tracked.get(key)
    return known if known is None or isinstance(known, str) else await known


async def main(url: str) -> None:
    """Serve stdin until it ends."""
    store = Store(url)
    await store.start()
    tracked = TrackedMap(store)
    await tracked.start()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().split():
        match line:
            case ["until", key, wanted]:
                while (await value(tracked, key) or "-") != wanted:
                    await asyncio.sleep(0.001)
            case _:
                while not tracked.live:
                    await asyncio.sleep(0.001)
        print("done", flush=True)
    await tracked.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
