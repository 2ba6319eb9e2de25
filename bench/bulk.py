"""An upstream for large bodies: `python -m bench.bulk PORT`. A GET is answered with as many zeros as its `?bytes=` says, a
body is counted and dropped. Its own memory does not grow with either."""

from __future__ import annotations

import asyncio
import re
import sys

_BLOCK = bytes(256 * 1024)
_WANTED = re.compile(rb"\?bytes=([0-9]+) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        length = _LENGTH.search(head)
        taken = left = int(length[1]) if length else 0
        while left:
            left -= len(await reader.read(min(left, len(_BLOCK))))
        wanted = _WANTED.search(head)
        size = int(wanted[1]) if wanted else 0
        answer = b"" if wanted else b"%d" % taken
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (size or len(answer), answer))
        while size:
            block = _BLOCK[: min(size, len(_BLOCK))]
            size -= len(block)
            writer.write(block)
            await writer.drain()
        await writer.drain()


async def _serve(port: int) -> None:
    async with await asyncio.start_server(_answer, "127.0.0.1", port, limit=512 * 1024) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
