"""`python -m demo.platform`: the stub platform alone, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from demo.files import write_private
from demo.platform.info import Info
from demo.platform.platform import Platform


def main() -> None:
    """Parses the command line and serves."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.platform",
        description="All services of the bakery platform, as stubs, in one process on loopback ports.",
    )
    parser.add_argument(
        "--info",
        metavar="FILE",
        help="write one JSON object there when ready (URLs, variables for the gateway, tokens); '-': standard output",
    )
    parser.add_argument("--redis", metavar="URL", help="publish alerts there, every few seconds")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(options.info, options.redis))


async def _serve(info_file: str | None, store: str | None) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, over.set)
    platform = Platform()
    await platform.start()
    info = platform.info()
    try:
        if info_file == "-":
            sys.stdout.buffer.write(msgspec.json.encode(info) + b"\n")
            sys.stdout.flush()
        elif info_file:
            write_private(Path(info_file), msgspec.json.encode(info))
        else:
            sys.stdout.write(_summary(info))
            sys.stdout.flush()
        producing = loop.create_task(platform.producer.run(store)) if store else None
        await over.wait()
        if producing is not None:
            producing.cancel()
            await asyncio.wait([producing])
    finally:
        if info_file and info_file != "-":
            Path(info_file).unlink(missing_ok=True)
        await platform.stop()


def _summary(info: Info) -> str:
    lines = ["# Variables for a gateway on this platform:"]
    lines += [f"export {name}={value!r}" for name, value in info.environment.items() if "KEY" not in name]
    lines += ["# Keys and tokens: --info FILE", "# Ctrl-C stops it."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
