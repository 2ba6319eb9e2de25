"""Documents: the merged document of one worker, made when it is asked for and made anew when it has grown old.

Nobody who finds one that is old waits for the next: it is fetched behind their back. The first one waits, for no service
longer than a few seconds. Merging runs in a thread: it may take longer than requests should wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from time import monotonic
from typing import NamedTuple

from kernel import __version__
from kernel.http.problems import GatewayError
from kernel.openapi.merge import BEARER, merge
from kernel.openapi.parts import Json, Unusable
from kernel.openapi.source import Routed, Source
from kernel.primitives.single_flight import SingleFlight
from kernel.routing.catalog import METHODS, RouteRow, Service
from kernel.routing.trie import Trie
from kernel.upstream.client import Answer

_FRESH_SECONDS = 60.0
# A service that is missing may just be starting.
_INCOMPLETE_SECONDS = 10.0
_MAX_BYTES = 1024 * 1024
_AT_ONCE = 8
_LIST = "\n\nNot in here, because the document of the service could not be used: "

SCHEMES: Json = {
    BEARER: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token of the auth service (log in to get one), or a service token.",
    }
}
_ABOUT = (
    "Everything that is served here: the gateway's own endpoints and those of the services behind it. "
    "Any operation may answer with a problem document (RFC 9457) of the gateway's, such as 401, 403, 429 or 503."
)

Call = Callable[[str, str], Awaitable[Answer]]


class Document(NamedTuple):
    """`etag` is a strong validator of `body`."""

    body: bytes
    etag: bytes


class Documents:
    """`call(service, path)` fetches a service's document; `own` makes the gateway's."""

    def __init__(
        self, services: tuple[Service, ...], rows: tuple[RouteRow, ...], call: Call, own: Callable[[], bytes]
    ) -> None:
        self._services = services
        self._rows = rows
        self._call = call
        self._own = own
        self._flight: SingleFlight[str, Document] = SingleFlight()
        self._document: Document | None = None
        self._until = 0.0

    async def get(self) -> Document:
        """The merged document, of the last minute or so."""
        if self._document is None:
            return await self._flight.run("", self._make)
        if monotonic() >= self._until:
            self._flight.start("", self._make)
        return self._document

    async def close(self) -> None:
        """End what is under way."""
        await self._flight.close()

    async def _make(self) -> Document:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def fetch(service: Service) -> bytes | str:
            async with turns:
                return await self._fetch(service)

        answers = await asyncio.gather(*(fetch(service) for service in self._services))
        found = {service.name: answer for service, answer in zip(self._services, answers, strict=True)}
        body, complete = await asyncio.to_thread(merged, self._own(), found, self._rows)
        self._document = Document(body, b'"%b"' % sha256(body).hexdigest()[:32].encode())
        self._until = monotonic() + (_FRESH_SECONDS if complete else _INCOMPLETE_SECONDS)
        return self._document

    async def _fetch(self, service: Service) -> bytes | str:
        """The document, or why there is none."""
        try:
            answer = await self._call(service.name, service.openapi)
        except GatewayError as error:
            return error.problem.kind.title.lower()
        if answer.status != 200:
            return f"{service.openapi} answered {answer.status}"
        if len(answer.body) > _MAX_BYTES:
            return f"the document has more than {_MAX_BYTES} bytes"
        return answer.body


def merged(own: bytes, found: Mapping[str, bytes | str], rows: tuple[RouteRow, ...]) -> tuple[bytes, bool]:
    """The document of `own` and the services' (or why there is none), and whether all of them were there and sound."""
    trie: Trie[RouteRow] = Trie()
    for row in rows:
        trie.add(METHODS if row.methods is None else row.methods, row.pattern, row)
    sources = [Source(None, own, _routed(trie, None))]
    states: Json = {}
    missing: list[str] = []
    for service, body in found.items():
        state: Json = {"included": False}
        states[service] = state
        try:
            if isinstance(body, str):
                raise Unusable(body)
            source = Source(service, body, _routed(trie, service))
        except Unusable as why:
            state["reason"] = str(why)
            missing.append(service)
            continue
        sources.append(source)
        title, version = source.title
        state.update({"included": True, "title": title, "version": version, "operations": len(source.served)})
        if source.left_out:
            state["left_out"] = source.left_out
        if source.not_told:
            state["left_out_too"] = source.not_told
    about = _ABOUT + (_LIST + ", ".join(missing) + "." if missing else "")
    head: Json = {
        "openapi": "3.1.0",
        "info": {"title": "Bakery Gateway", "version": __version__, "description": about},
        "servers": [{"url": "/"}],
        "x-services": states,
    }
    return merge(head, sources, SCHEMES), not missing


def _routed(trie: Trie[RouteRow], service: str | None) -> Routed:
    def routed(path: str, method: str) -> RouteRow | None:
        routes, _ = trie.match(path.encode())
        row = routes.get(method) if routes else None
        return row if row is not None and row.service == service else None

    return routed
