"""A page and its files, all of them from here. The files are under a name that changes with them, so they are kept for ever.

Nothing is read before the first visit. The files are held as they were stored, compressed; who cannot take that gets them
decompressed.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files

from msgspec import Struct

from kernel.exchange.exchange import Exchange
from kernel.http.problems import ROUTE_UNKNOWN, GatewayError

SCRIPT, STYLE, PNG = b"text/javascript; charset=utf-8", b"text/css; charset=utf-8", b"image/png"
_HTML = (b"content-type", b"text/html; charset=utf-8")
_REVALIDATED = (b"cache-control", b"no-cache")
_KEPT = (b"cache-control", b"public, max-age=31536000, immutable")
_VARY = (b"vary", b"Accept-Encoding")
# SECURITY: what a page shows is the services' and may have anything in it; nothing inline runs, and nothing is fetched from
# or sent to another host. The styles that a page's script sets on elements are not inline ones.
_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
_REFERRER = (b"referrer-policy", b"no-referrer")


class _File(Struct, frozen=True):
    body: bytes
    type: bytes
    compressed: bool


class _Files(Struct, frozen=True):
    """`version` is of all of them together."""

    page: bytes
    version: str
    by_name: dict[str, _File]


class Assets:
    """`package` has page.html and the files of `types`, some as `NAME.gz`; they are served below `path`."""

    def __init__(self, package: str, types: Mapping[str, bytes], path: str) -> None:
        self._package = package
        self._types = types
        self._path = path
        self._loaded: _Files | None = None
        # For clients without gzip, who are few; one copy of each, however many read it slowly.
        self._plain: dict[str, bytes] = {}

    async def page(self, x: Exchange) -> None:
        """The handler of the page itself."""
        await x.respond(200, [_HTML, _REVALIDATED, _POLICY, _REFERRER], (await self._files()).page)

    async def file(self, x: Exchange) -> None:
        """The handler of its files: `x.params` are version and name."""
        loaded = await self._files()
        version, name = (part.decode("latin-1") for part in x.params)
        found = loaded.by_name.get(name)
        # Another version is another instance's during an update: to be asked for again, not kept.
        if found is None or version != loaded.version:
            raise GatewayError(ROUTE_UNKNOWN(f"There is no such file: load {self._path} anew."))
        headers = [(b"content-type", found.type), _KEPT]
        body = found.body
        if found.compressed:
            headers.append(_VARY)
            accepted = b",".join(value for key, value in x.scope["headers"] if key == b"accept-encoding")
            if takes_gzip(accepted):
                headers.append((b"content-encoding", b"gzip"))
            else:
                if name not in self._plain:
                    self._plain[name] = await asyncio.to_thread(gzip.decompress, body)
                body = self._plain[name]
        await x.respond(200, headers, body)

    async def _files(self) -> _Files:
        if self._loaded is None:
            self._loaded = await asyncio.to_thread(self._load)
        return self._loaded

    def _load(self) -> _Files:
        folder = files(self._package)
        found: dict[str, _File] = {}
        for name, kind in self._types.items():
            stored = folder.joinpath(name + ".gz")
            compressed = stored.is_file()
            body = (stored if compressed else folder.joinpath(name)).read_bytes()
            found[name] = _File(body, kind, compressed)
        version = sha256(b"".join(found[name].body for name in sorted(found))).hexdigest()[:16]
        text = folder.joinpath("page.html").read_text(encoding="utf-8")
        return _Files(text.replace("{assets}", f"{self._path}/{version}").encode(), version, found)


def takes_gzip(accepted: bytes) -> bool:
    """Whether an Accept-Encoding allows gzip (RFC 9110 section 12.5.3); only what names it counts."""
    for part in accepted.lower().split(b","):
        coding, *parameters = (each.strip() for each in part.split(b";"))
        if coding in (b"gzip", b"x-gzip"):
            weight = next((each[2:].strip() for each in parameters if each.startswith(b"q=")), b"1")
            return weight.strip(b"0.") != b""
    return False
