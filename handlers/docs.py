"""`/docs`: Swagger UI, all of it from here. Its files are under a name that changes with them, so they are kept for ever.

Nothing is read before the first visit. The files are held as they were stored, compressed; who cannot take that gets them
decompressed.
"""

from __future__ import annotations

import asyncio
import gzip
from hashlib import sha256
from importlib.resources import files

from msgspec import Struct

from kernel.exchange.exchange import Exchange, Handler
from kernel.http.problems import ROUTE_UNKNOWN, GatewayError
from kernel.openapi.own import Answer, Operation, Operations, Query
from kernel.state import Factories

_TYPES = {
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "swagger-ui.css": b"text/css; charset=utf-8",
    "start.js": b"text/javascript; charset=utf-8",
    "page.css": b"text/css; charset=utf-8",
    "favicon.png": b"image/png",
}
_HTML = (b"content-type", b"text/html; charset=utf-8")
_REVALIDATED = (b"cache-control", b"no-cache")
_KEPT = (b"cache-control", b"public, max-age=31536000, immutable")
_VARY = (b"vary", b"Accept-Encoding")
# SECURITY: descriptions in the document are the services' and may have anything in them; nothing inline runs, and
# nothing is fetched from or sent to another host. The styles that the page's script sets on elements are not inline ones.
_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
_REFERRER = (b"referrer-policy", b"no-referrer")

OPERATIONS: Operations = {
    "GET docs": Operation(
        "Documentation for people", "documentation", {200: Answer("A page", media="text/html")}
    ),
    "GET docs-file": Operation(
        "A file of the documentation page",
        "documentation",
        {200: Answer("The file", media="*/*")},
        parameters=(Query("Accept-Encoding", "With gzip the larger files are sent compressed.", "header"),),
    ),
}


class _File(Struct, frozen=True):
    body: bytes
    type: bytes
    compressed: bool


class _Files(Struct, frozen=True):
    """`version` is of all of them together."""

    page: bytes
    version: str
    by_name: dict[str, _File]


def _load() -> _Files:
    folder = files("kernel.openapi.ui")
    found: dict[str, _File] = {}
    for name, kind in _TYPES.items():
        stored = folder.joinpath(name + ".gz")
        compressed = stored.is_file()
        body = (stored if compressed else folder.joinpath(name)).read_bytes()
        found[name] = _File(body, kind, compressed)
    version = sha256(b"".join(found[name].body for name in sorted(found))).hexdigest()[:16]
    page = folder.joinpath("page.html").read_text(encoding="utf-8").replace("{assets}", f"/docs/{version}")
    return _Files(page.encode(), version, found)


def page() -> Handler:
    """The handler of the page itself."""

    document = b""

    async def docs(x: Exchange) -> None:
        nonlocal document
        if not document:
            document = (await asyncio.to_thread(_load)).page
        await x.respond(200, [_HTML, _REVALIDATED, _POLICY, _REFERRER], document)

    return docs


def file() -> Handler:
    """The handler of its files."""

    loaded: _Files | None = None
    # For clients without gzip, who are few; one copy of each, however many read it slowly.
    plain: dict[str, bytes] = {}

    async def docs_file(x: Exchange) -> None:
        nonlocal loaded
        if loaded is None:
            loaded = await asyncio.to_thread(_load)
        version, name = (part.decode("latin-1") for part in x.params)
        found = loaded.by_name.get(name)
        # Another version is another instance's during an update: to be asked for again, not kept.
        if found is None or version != loaded.version:
            raise GatewayError(ROUTE_UNKNOWN("The documentation has no such file: load /docs anew."))
        headers = [(b"content-type", found.type), _KEPT]
        body = found.body
        if found.compressed:
            headers.append(_VARY)
            accepted = b",".join(value for key, value in x.scope["headers"] if key == b"accept-encoding")
            if takes_gzip(accepted):
                headers.append((b"content-encoding", b"gzip"))
            else:
                if name not in plain:
                    plain[name] = await asyncio.to_thread(gzip.decompress, body)
                body = plain[name]
        await x.respond(200, headers, body)

    return docs_file


def takes_gzip(accepted: bytes) -> bool:
    """Whether an Accept-Encoding allows gzip (RFC 9110 section 12.5.3); only what names it counts."""
    for part in accepted.lower().split(b","):
        coding, *parameters = (each.strip() for each in part.split(b";"))
        if coding in (b"gzip", b"x-gzip"):
            weight = next((each[2:].strip() for each in parameters if each.startswith(b"q=")), b"1")
            return weight.strip(b"0.") != b""
    return False


FACTORIES: Factories = {
    "docs": lambda state, row: page(),
    "docs-file": lambda state, row: file(),
}
