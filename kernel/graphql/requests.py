"""Sub-requests: what a field asks of a service, sent by the gateway's own front door.

SECURITY: not a side door. Each takes its own route's stages with the caller's token, tenant, demo session and address, pays
its own limits, and is counted, logged and audited as any other. What the client's request says of its own body or its own
answer is left out; what it says of the client goes along.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from kernel.exchange.asgi import HeaderList, Message, Receive, Send
from kernel.exchange.exchange import Exchange
from kernel.exchange.inner import INNER
from kernel.graphql.model import BODY, HEADER, PATH, QUERY, Argument, Operation
from kernel.http.headers import HOP_BY_HOP
from kernel.http.problems import (
    CATALOGUE,
    GRAPHQL_ANSWER,
    GRAPHQL_REFUSED,
    GRAPHQL_TOO_LARGE,
    INTERNAL,
    ClientGone,
)
from kernel.state import Enter

# Of one answer, and of all of an operation.
_MOST_ANSWER = 2 * 1024 * 1024
_MOST_ANSWERS = 8 * 1024 * 1024
# Of what a service says of the fields that it refuses.
_MOST_DETAIL = 16 * 1024
_PARAMETER = re.compile(r"\{([^{}/]*)\}")
# Of the client's request alone: its body, its answer, the tokens that it has been given anew for.
_ITS_OWN = HOP_BY_HOP | {
    b"authorization",
    b"expect",
    b"idempotency-key",
    b"last-event-id",
    b"origin",
    b"range",
    b"x-refresh-token",
}
_ITS_OWN_PREFIXES = (b"accept", b"access-control-", b"content-", b"if-", b"sec-")
_SEPARATORS = {"spaceDelimited": "%20", "pipeDelimited": "%7C"}
_CODE = re.compile(r"[a-z][a-z0-9_.-]{0,63}", re.IGNORECASE)
_VISIBLE = re.compile(r"[\t -~]*")


class SubRequest(NamedTuple):
    """Two that are equal are sent once."""

    method: str
    path: bytes
    query: bytes
    body: bytes | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Invalid(Exception):
    """An argument that no request can be made of; the message names it."""


class Failed(Exception):
    """A sub-request without a usable answer. `extensions` tell of it."""

    def __init__(self, message: str, code: str, status: int, **more: Any) -> None:
        super().__init__(message)
        self.message = message
        self.extensions: dict[str, Any] = {"code": code, "status": status, **more}


def sub_request(
    operation: Operation, arguments: Mapping[str, Any], tenant: str | None, key: bytes | None
) -> SubRequest:
    """What `operation` asks with `arguments` (by name, coerced). `tenant` is the outer request's, `key` an Idempotency-Key.

    Raises:
        Invalid: no path, or no header, can be made of them.
    """
    path, places = operation.path, {each.wire: each for each in operation.arguments if each.place == PATH}
    if operation.scoped and any(
        arguments.get(each.name) is not None for each in places.values() if "{" + each.wire + "}" not in path
    ):
        path = operation.scoped

    def filled(found: re.Match[str]) -> str:
        argument = places.get(found[1])
        value = arguments.get(argument.name) if argument else None
        if value is None and argument is not None and not argument.type.endswith("!"):
            value = tenant  # the only argument of a path that need not be there
        text = ",".join(map(_text, value)) if isinstance(value, list) else _text(value)
        # SECURITY: an empty segment would make another resource of it: DELETE /items/ instead of one of the items.
        if not text:
            raise Invalid(f"{argument.name if argument else found[1]}: it is needed, and may not be empty.")
        return quote(text, safe="")

    body: bytes | None = None
    query: list[str] = []
    headers: list[tuple[bytes, bytes]] = []
    for each in operation.arguments:
        value = arguments.get(each.name)
        if each.place == BODY and (value is not None or each.name in arguments):
            body = msgspec.json.encode(value)
        elif value is None:
            continue
        elif each.place == QUERY:
            query += _query(each, value)
        elif each.place == HEADER:
            text = ",".join(map(_text, value)) if isinstance(value, list) else _text(value)
            if not _VISIBLE.fullmatch(text) or len(text) > 4096:
                raise Invalid(f"{each.name}: a header takes visible ASCII.")
            headers.append((each.wire.lower().encode(), text.encode()))
    if key is not None and operation.writes:
        headers.append((b"idempotency-key", key))
    try:
        raw_path = _PARAMETER.sub(filled, path).encode()
    except UnicodeEncodeError:
        raise Invalid("A path takes whole characters.") from None
    return SubRequest(operation.method, raw_path, "&".join(query).encode(), body, tuple(headers))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return msgspec.json.encode(value).decode()


def _query(argument: Argument, value: Any) -> Iterator[str]:
    name = quote(argument.wire, safe="")
    if argument.style == "json":
        yield f"{name}={quote(msgspec.json.encode(value).decode(), safe='')}"
    elif isinstance(value, list):
        texts = [quote(_text(each), safe="") for each in value if each is not None]
        if argument.explode and argument.style == "form":
            for text in texts:
                yield f"{name}={text}"
        elif texts:
            yield f"{name}={_SEPARATORS.get(argument.style, ',').join(texts)}"
    elif isinstance(value, dict):
        for key, each in value.items():
            inner = quote(str(key), safe="")
            yield (
                f"{name}%5B{inner}%5D={quote(_text(each), safe='')}"
                if argument.style == "deepObject"
                else (f"{inner}={quote(_text(each), safe='')}")
            )
    else:
        yield f"{name}={quote(_text(value), safe='')}"


class Sender:
    """Of one request `x`. `gone` is set when its client has left: what is under way ends then."""

    def __init__(self, enter: Enter, x: Exchange, gone: asyncio.Event) -> None:
        self._enter = enter
        self._x = x
        self.gone = gone
        self._common = list(_common(x))
        self._scope = {
            "type": INNER,
            "parent": x,
            "http_version": "1.1",
            "scheme": x.scope["scheme"],
            "client": x.scope["client"],
        }
        self.sent = self.spared = self.received = 0

    async def send(self, asked: SubRequest, service: str) -> Any:
        """The JSON of a 2xx answer; None when it has no content.

        Raises:
            Failed: a policy, or the service, refused it; or there is no usable answer.
        """
        self.sent += 1
        headers: HeaderList = [*self._common, *asked.headers]
        body = asked.body
        if body is not None:
            headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        elif asked.method != "GET":
            headers.append((b"content-length", b"0"))
        answer = _Answer(body, self)
        answer.broken = await self._entered(asked, headers, answer.receive, answer.send)
        return answer.result(service)

    async def pass_on(self, asked: SubRequest, receive: Receive, send: Send) -> bool:
        """Have an answer go to `send`, part by part; whether it broke off."""
        return await self._entered(asked, [*self._common], receive, send)

    async def _entered(self, asked: SubRequest, headers: HeaderList, receive: Receive, send: Send) -> bool:
        scope = {
            **self._scope,
            "method": asked.method,
            "raw_path": asked.path,
            "query_string": asked.query,
            "headers": headers,
        }
        try:
            rest = self._enter(scope, receive, send)
            if rest is not None:
                await rest
        except Exception:  # of one that broke off: it is told and logged there
            return True
        return False


def _common(x: Exchange) -> Iterable[tuple[bytes, bytes]]:
    """What all sub-requests of a request say."""
    for name, value in x.scope["headers"]:
        if (name not in _ITS_OWN and not name.startswith(_ITS_OWN_PREFIXES)) or name == b"accept-language":
            yield name, value
    yield b"accept", b"application/json"
    # It may have been renewed on the way here.
    if x.token is not None:
        yield b"authorization", b"Bearer " + x.token


class _Answer:
    """The server's side of one sub-request."""

    def __init__(self, body: bytes | None, sender: Sender) -> None:
        self._body = body
        self._sender = sender
        self._given = False
        self._parts: list[bytes] = []
        self._size = 0
        self._type = b""
        self._encoded = False
        self.status = 0
        self.broken = False
        self._too_large = False

    async def receive(self) -> Message:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": self._body or b"", "more_body": False}
        await self._sender.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message["headers"]:
                if name == b"content-type":
                    self._type = value.partition(b";")[0].strip().lower()
                elif name == b"content-encoding" and value.lower() != b"identity":
                    self._encoded = True
            return
        part: bytes = message.get("body", b"")
        self._size += len(part)
        self._sender.received += len(part)
        if self._size > _MOST_ANSWER or self._sender.received > _MOST_ANSWERS:
            self._too_large = True
            self._parts.clear()
            raise ClientGone("the answer is larger than a field may have")
        self._parts.append(part)

    def result(self, service: str) -> Any:
        """See `Sender.send`."""
        status = self.status
        if self._too_large:
            raise Failed(
                f"{service}: more than {_MOST_ANSWER} bytes, or all answers more than {_MOST_ANSWERS}.",
                GRAPHQL_TOO_LARGE.code,
                502,
            )
        if self.broken or not status:
            raise Failed(f"{service}: the answer broke off.", INTERNAL.code, 502)
        body = b"".join(self._parts)
        if not 200 <= status < 300:
            raise failure(service, status, b"" if self._encoded else body)
        if not body:
            return None
        if not self._encoded and (self._type.endswith(b"json") or not self._type):
            with suppress(ValueError, RecursionError):
                return msgspec.json.decode(body)
        raise Failed(f"{service}: the answer is no JSON.", GRAPHQL_ANSWER.code, GRAPHQL_ANSWER.status)


def failure(service: str, status: int, body: bytes) -> Failed:
    """What a problem document, or whatever else a service says, comes to."""
    given: Any = None
    with suppress(ValueError, RecursionError):
        given = msgspec.json.decode(body)
    if not isinstance(given, dict):
        given = {}
    code = given.get("code")
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        code = GRAPHQL_REFUSED.code
    more: dict[str, Any] = {"service": service}
    kind = CATALOGUE.get(code)
    texts = (given.get("detail"), given.get("message"), given.get("title"), kind.title if kind else "")
    message = next(
        (text for text in texts if isinstance(text, str) and text), f"{service} answered {status}."
    )
    detail = given.get("detail")
    if not isinstance(detail, (list, dict)):
        detail = given.get("errors")
    if isinstance(detail, (list, dict)) and len(msgspec.json.encode(detail)) <= _MOST_DETAIL:
        more["detail"] = detail  # FastAPI's, which name each field
    return Failed(message[:1000], code, status, **more)
