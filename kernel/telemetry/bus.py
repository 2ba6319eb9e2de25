"""How the worker processes of one gateway talk: a unix socket each, in the run directory they share.

One request a connection: a frame `[verb, payload]` as msgpack goes in, a frame of bytes comes back. A frame is its
length in four bytes, big-endian, then the content. The directory belongs to the gateway's user alone (0700), so
there is no other authentication.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import msgspec

ANSWER_SECONDS = 0.5
_MAX_FRAME = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")
_SOCKET = re.compile(r"worker-(\d+)\.sock")
# sockaddr_un holds 108 bytes, one of them the final NUL.
_MAX_SOCKET_PATH = 107


class NoAnswer(Enum):
    """Why a sibling did not answer: it is GONE (nobody listens any more), or HUNG (it listens, but says nothing)."""

    GONE = "gone"
    HUNG = "hung"


Handler = Callable[[bytes], bytes]


class Bus:
    """This worker's place among its siblings. `run_dir` must exist; `pid` is this process unless a test says otherwise.

    Raises:
        ValueError: the run directory's path is too long for a unix socket.
    """

    def __init__(self, run_dir: Path, pid: int | None = None) -> None:
        self.pid = pid or os.getpid()
        self._run_dir = run_dir
        self._path = run_dir / f"worker-{self.pid}.sock"
        if len(os.fsencode(self._path)) > _MAX_SOCKET_PATH:
            raise ValueError(f"GATEWAY_RUN_DIR is too long for a unix socket: {run_dir}")
        self._handlers: dict[str, Handler] = {}
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None

    def on(self, verb: str, handler: Handler) -> None:
        """Answer requests of this verb with `handler(payload)`."""
        self._handlers[verb] = handler

    def bind(self) -> None:
        """Take this worker's address, also from a predecessor with the same pid; `start` serves it."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(os.fspath(self._path))
        listener.listen(64)
        self._socket = listener

    async def start(self) -> None:
        """Answer siblings from now on."""
        if self._socket is None:
            self.bind()
        self._server = await asyncio.start_unix_server(self._serve, sock=self._socket)

    async def stop(self) -> None:
        """Stop answering and give the address up."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._socket = None
        self._path.unlink(missing_ok=True)

    def siblings(self) -> list[int]:
        """Pids of the other workers that have an address, living or not."""
        found = (_SOCKET.fullmatch(name) for name in os.listdir(self._run_dir))
        return sorted(pid for match in found if match and (pid := int(match[1])) != self.pid)

    async def ask(
        self, verb: str, payload: bytes = b"", wait: float = ANSWER_SECONDS
    ) -> dict[int, bytes | NoAnswer]:
        """Ask all siblings at once; after `wait` seconds who has not answered counts as hung."""
        pids = self.siblings()
        request = msgspec.msgpack.encode((verb, payload))
        answers = await asyncio.gather(*(self._ask(pid, request, wait) for pid in pids))
        return dict(zip(pids, answers, strict=True))

    async def _ask(self, pid: int, request: bytes, wait: float) -> bytes | NoAnswer:
        writer = None
        try:
            async with asyncio.timeout(wait):
                path = os.fspath(self._run_dir / f"worker-{pid}.sock")
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(_LENGTH.pack(len(request)) + request)
                return await _read_frame(reader)
        except (ConnectionRefusedError, FileNotFoundError):
            return NoAnswer.GONE
        except (OSError, EOFError, TimeoutError):
            return NoAnswer.HUNG
        finally:
            if writer is not None:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A sibling that breaks off gets no answer and asks again; there is nothing to tell anyone.
        with contextlib.suppress(OSError, EOFError, TimeoutError, ValueError, KeyError):
            async with asyncio.timeout(ANSWER_SECONDS):
                verb, payload = _REQUEST.decode(await _read_frame(reader))
                answer = self._handlers[verb](payload)
                writer.write(_LENGTH.pack(len(answer)) + answer)
                await writer.drain()
        writer.close()


_REQUEST = msgspec.msgpack.Decoder(tuple[str, bytes])


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > _MAX_FRAME:
        raise EOFError("frame too long")
    return await reader.readexactly(length)


def listening(run_dir: Path, pid: int) -> bool:
    """Whether a process listens at a worker's address (unlike its pid, that cannot pass to an unrelated process)."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)
    try:
        probe.connect(os.fspath(run_dir / f"worker-{pid}.sock"))
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        # Its queue of connections is full: it hangs, but it is there.
        return True
    finally:
        probe.close()
    return True
