"""What a stub service is handed and what it answers: `Request`, `Response`, and `Refusal` for problem documents."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

JSON = "application/json"

# A body nobody reads yet stops the connection from reading at this many bytes.
_HIGH_WATER = 256 * 1024


class Response:
    """`body` is either the whole body or an iterator of chunks (`length` bytes in all; -1 = chunked)."""

    __slots__ = ("body", "headers", "length", "status")

    def __init__(
        self,
        status: int,
        body: bytes | AsyncIterator[bytes] = b"",
        headers: tuple[tuple[str, str], ...] = (),
        length: int = -1,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.length = length


def reply(document: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """A JSON response."""
    return Response(status, msgspec.json.encode(document), (("content-type", JSON), *headers))


class Refusal(Exception):
    """Ends a request with an RFC 9457 problem document."""

    def __init__(
        self, status: int, code: str, detail: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers

    def response(self) -> Response:
        title = self.code.replace("-", " ").capitalize()
        document = {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        content_type = ("content-type", "application/problem+json")
        return Response(self.status, msgspec.json.encode(document), (content_type, *self.headers))


class Request:
    """One request as it arrived: names, values and target are latin-1 text, unchanged and in order."""

    __slots__ = (
        "_buffered",
        "_chunks",
        "_discard",
        "_resume",
        "_waiter",
        "complete",
        "headers",
        "keep_alive",
        "method",
        "params",
        "path",
        "query",
        "target",
        "version",
    )

    def __init__(
        self,
        method: str,
        target: str,
        version: str,
        headers: list[tuple[str, str]],
        resume: Callable[[], None],
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.path, _, self.query = target.partition("?")
        self.params: Mapping[str, str] = {}
        self.complete = False
        self.keep_alive = True
        self._resume = resume
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._discard = False
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: str) -> str:
        """The first value of header `name` (lower case), "" when there is none."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return ""

    def cookie(self, name: str) -> str:
        """The value of cookie `name`, "" when there is none."""
        for key, value in self.headers:
            if key.lower() == "cookie":
                for pair in value.split(";"):
                    found, _, content = pair.strip().partition("=")
                    if found == name:
                        return content
        return ""

    def arguments(self) -> dict[str, str]:
        """The query's parameters, decoded; of a repeated one the last."""
        return dict(parse_qsl(self.query, keep_blank_values=True))

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Query parameter `name` as an integer of low..high; a `Refusal` when it is not one."""
        text = self.arguments().get(name, "")
        return as_number(name, text, low, high) if text else default

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's pieces as they arrive; the sender is held back while they are not taken."""
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._buffered -= len(chunk)
                if self._buffered < _HIGH_WATER:
                    self._resume()
                yield chunk
            if self.complete:
                return
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object, an absent one as an empty object; a `Refusal` (400, 422) for anything else."""
        body = await self.read()
        try:
            document = msgspec.json.decode(body or b"{}")
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "body-not-json", f"The body must be JSON: {error}") from None
        if not isinstance(document, dict):
            raise Refusal(422, "body-not-object", "The body must be a JSON object.")
        return document

    # What the connection calls.

    def feed(self, chunk: bytes) -> bool:
        """Takes a piece of the body; False: enough, stop reading."""
        if self._discard:
            return True
        self._chunks.append(chunk)
        self._buffered += len(chunk)
        self._wake()
        return self._buffered < _HIGH_WATER

    def finish(self) -> None:
        """The body has arrived whole."""
        self.complete = True
        self._wake()

    def discard(self) -> None:
        """Nobody will read the rest of the body."""
        self._discard = True
        self._chunks.clear()
        self._resume()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


Handler = Callable[[Request], Response | Awaitable[Response]]


def as_number(name: str, text: str, low: int, high: int) -> int:
    """`text` as an integer of low..high; a `Refusal` (422) that names the parameter when it is not one."""
    if text.isascii() and text.isdigit() and low <= int(text) <= high:
        return int(text)
    raise Refusal(422, "parameter-invalid", f"'{name}' must be an integer from {low} to {high}.")


def text(document: Mapping[str, Any], name: str) -> str:
    """Member `name`; a `Refusal` (422) when it is missing, empty or no text."""
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise Refusal(422, "field-missing", f"'{name}' must be a text that is not empty.")
    return value


async def digest(request: Request, keep: int) -> tuple[int, str, bytes]:
    """Reads the body in constant memory: its length, SHA-256 (hex) and first `keep` bytes."""
    length, sha, start = 0, hashlib.sha256(), bytearray()
    async for chunk in request.chunks():
        length += len(chunk)
        sha.update(chunk)
        start += chunk[: max(0, keep - len(start))]
    return length, sha.hexdigest(), bytes(start)
