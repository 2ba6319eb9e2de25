"""WebSockets of the stub services: the protocol is the `websockets` library's, on the connection the server hands over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request as Opening
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from demo.platform.messages import Request

_QUEUE = 64
_MAX_MESSAGE = 16 * 1024 * 1024
SUBPROTOCOL = "training.v1"


class Gone(Exception):
    """The other side has closed."""


class Socket(asyncio.Protocol):
    """One socket. `handler` gets it when it is open; when the handler returns, the socket is closed."""

    def __init__(
        self, request: Request, handler: Callable[[Socket], Awaitable[None]], ended: Callable[[Socket], None]
    ) -> None:
        self.request = request
        self._handler = handler
        self._ended = ended
        self._protocol = ServerProtocol(
            subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=_MAX_MESSAGE, select_subprotocol=_choose
        )
        self._received: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self._parts: list[bytes] = []
        self._text = False
        self._transport: asyncio.Transport
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None

    async def receive(self) -> str | bytes:
        """The next message. Raises Gone."""
        message = await self._received.get()
        if message is None:
            self._received.put_nowait(None)
            raise Gone
        if self._received.qsize() < _QUEUE:
            self._transport.resume_reading()
        return message

    async def send(self, message: str | bytes) -> None:
        """Raises Gone."""
        await self._writable.wait()
        if self._protocol.state is not State.OPEN:
            raise Gone
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        self._flush()

    def abort(self) -> None:
        """Drop it without a word."""
        self._transport.abort()

    # --- transport

    def take_over(self, transport: asyncio.Transport, rest: bytes) -> None:
        """Go on with a connection whose request has been read, up to `rest`."""
        self._transport = transport
        transport.set_protocol(self)
        lines = [
            f"GET {self.request.target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in self.request.headers),
        ]
        self.data_received("\r\n".join([*lines, "", ""]).encode("latin-1") + rest)

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Opening):
                response = self._protocol.accept(event)
                self._protocol.send_response(response)
                if response.status_code == 101:
                    self._task = asyncio.get_running_loop().create_task(self._run())
            else:
                self._frame(cast("Frame", event))
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._received.put_nowait(None)
        self._writable.set()
        self._ended(self)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self._received.put_nowait(None)
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if frame.opcode is not Opcode.CONT:
                self._text = frame.opcode is Opcode.TEXT
            self._parts.append(bytes(frame.data))
            if frame.fin:
                data = b"".join(self._parts)
                self._parts.clear()
                self._received.put_nowait(data.decode() if self._text else data)
                if self._received.qsize() >= _QUEUE:
                    self._transport.pause_reading()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.close()

    async def _run(self) -> None:
        try:
            await self._handler(self)
        except Gone:
            pass
        finally:
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(1000)
                self._flush()


def _choose(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The subprotocol is a client's choice here, none is as good."""
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None
