"""Answers with the request it received: what a peer's upstream really sees. `python -m bench.echo PORT`.

It stands behind the measured upstream's `/echo` path, so that a peer is checked in the very process that is measured.
"""

from __future__ import annotations

import asyncio
import json
import sys


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = [[name, value.strip()] for name, _, value in (line.partition(":") for line in lines)]
    body = json.dumps({"method": method, "target": target, "headers": headers}).encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        % len(body)
    )
    writer.write(body)
    writer.close()


async def _serve(port: int) -> None:
    async with await asyncio.start_server(_answer, "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
