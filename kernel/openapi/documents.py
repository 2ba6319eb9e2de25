"""Documents: the merged document of one worker, made when it is asked for and made anew when it has grown old.

Nobody who finds one that is old waits for the next: it is fetched behind their back. The first one waits, for no service
longer than a few seconds. Merging runs in a process of its own, and only when something has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha256
from time import monotonic
from typing import NamedTuple

from kernel.openapi.editions import Edition
from kernel.openapi.fetching import Call, fetched
from kernel.openapi.maker import Maker
from kernel.openapi.together import merged
from kernel.primitives.own_process import NotMade
from kernel.primitives.single_flight import SingleFlight

_FRESH_SECONDS = 60.0
# A service that is missing may just be starting.
_INCOMPLETE_SECONDS = 10.0


class Document(NamedTuple):
    """`etag` is a strong validator of `body`."""

    body: bytes
    etag: bytes


class Documents:
    """An edition's. `call(upstream, path)` fetches a service's document; `own` makes the gateway's."""

    def __init__(self, edition: Edition, call: Call, own: Callable[[], bytes]) -> None:
        self._edition = edition
        self._maker = Maker(edition)
        self._call = call
        self._own = own
        self._flight: SingleFlight[str, Document] = SingleFlight()
        self._document: Document | None = None
        # A digest of what it was made of.
        self._of = b""
        self._complete = False
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
        self._maker.stop()
        await self._flight.close()

    async def _make(self) -> Document:
        upstreams = self._edition.upstreams
        found = await fetched(
            self._edition.services, lambda name, path: self._call(upstreams.get(name, name), path)
        )
        own = await asyncio.to_thread(self._own)
        self._document = await asyncio.to_thread(self._merge, own, found)
        self._until = monotonic() + (_FRESH_SECONDS if self._complete else _INCOMPLETE_SECONDS)
        return self._document

    def _merge(self, own: bytes, found: dict[str, bytes | str]) -> Document:
        """The document of `own` and `found`: the last one, if they are what that was made of."""
        of = sha256()
        for name, body in (("", own), *found.items()):
            # A reason in a document's place is something else than a document.
            data = body if isinstance(body, bytes) else b"\0" + body.encode()
            of.update(b"%b %d\n" % (name.encode(), len(data)))
            of.update(data)
        if self._document is not None and of.digest() == self._of:
            return self._document
        try:
            body, self._complete = self._maker(own, found)
            self._of = of.digest()
        except NotMade as why:
            edition = self._edition
            nothing = dict.fromkeys(found, f"merging failed: {why}")
            body, self._complete = merged(own, nothing, edition.rows, edition.version, edition.index)
            self._of = b""
        return Document(body, b'"%b"' % sha256(body).hexdigest()[:32].encode())
