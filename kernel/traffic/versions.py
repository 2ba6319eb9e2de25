"""Versions of services' APIs: what callers are told of one that ends, who they are, and which there are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any
from urllib.parse import quote

from kernel.exchange.asgi import HeaderList
from kernel.exchange.exchange import Exchange, Handler
from kernel.http.problems import VERSION_UNKNOWN, Problem
from kernel.routing.catalog import TIERS, V1, Lifecycle, RouteRow, Service
from kernel.routing.trie import Trie

_BELOW = re.compile(rb"/api/(v[1-9][0-9]{0,2})(?=/)")
_NAME = re.compile(r"v[1-9][0-9]{0,2}")
# What browsers send in a path, and RFC 3986 has no place for.
_NO_URI = re.compile(rb"[\[\]^{|}]").search
_URI_BYTES = "/%-._~!$&'()*+,;=:@"
_ANYBODY = "anonymous"
# What tokens call them, as people say it.
_KINDS = {"access": "user"}


class Versions:
    """The versions of all services, and who still calls those that end."""

    def __init__(self, catalog: tuple[Service, ...], rows: tuple[RouteRow, ...]) -> None:
        self._services = {service.name: service.served for service in catalog}
        self._rows = rows
        self._first: Trie[RouteRow] | None = None
        self._calls: Counter[tuple[str, str, str, str]] = Counter()

    def unknown(self, path: bytes) -> Problem | None:
        """What to tell who asks for `path`, which no service answers: that another version of it is there, if so."""
        found = _BELOW.match(path)
        if found is None or found[1] == V1.encode():
            return None
        routes, _ = self._at_v1().match(b"/api/%b%b" % (V1.encode(), path[found.end() :]))
        row = next(iter(routes.values()), None) if routes else None
        if row is None:
            return None
        if row.service is None:
            return VERSION_UNKNOWN(f"The gateway answers this itself: in {V1} alone, below /api/{V1}/.")
        *others, last = self._services[row.service]
        known = f"{', '.join(others)} and {last}" if others else last
        return VERSION_UNKNOWN(f"{row.service} has {known}, not {found[1].decode()}.")

    def _at_v1(self) -> Trie[RouteRow]:
        """Made when the first such path comes: most gateways never see one."""
        if self._first is None:
            self._first = Trie()
            for row in self._rows:
                if row.pattern.startswith(f"/api/{V1}/") and not row.admin:
                    self._first.add(row.answered, row.pattern, row)
        return self._first

    def counted(self, row: RouteRow, handler: Handler) -> Handler:
        """`handler`, which counts callers if the version of `row` ends."""
        life = row.life
        if life is None or (life.deprecated is None and life.sunset is None):
            return handler
        calls = self._calls
        service, version = row.service or "", row.version

        def handle(x: Exchange) -> Awaitable[None] | None:
            identity = x.identity
            kind = _ANYBODY if identity is None else _KINDS.get(identity.kind, identity.kind)
            # A closed set each, however many tenants there are: the log has who it was.
            tier = x.grant.tier if x.grant is not None else ""
            calls[service, version, kind, tier if tier in TIERS else ""] += 1
            return handler(x)

        return handle

    def families(self) -> dict[str, Any]:
        """A source for `Metrics.register_source`."""
        return {"gateway_deprecated_requests_total": dict(self._calls)} if self._calls else {}


def announcement(row: RouteRow) -> Callable[[bytes], HeaderList] | None:
    """Makes the headers that tell of the life of a row's version, for a raw path; None where there is nothing to tell.

    RFC 9745 (an instant as structured fields write one), RFC 8594 (an HTTP-date), RFC 5829 (successor-version).
    """
    life = row.life
    if life is None:
        return None
    headers: HeaderList = []
    if life.deprecated is not None:
        headers.append((b"deprecation", b"@%d" % life.deprecated))
    if life.sunset is not None:
        headers.append((b"sunset", formatdate(life.sunset, usegmt=True).encode()))
    links = [
        f'<{page}>; rel="{relation}"'
        for page, relation in ((life.deprecation_page, "deprecation"), (life.sunset_page, "sunset"))
        if page
    ]
    named = _NAME.fullmatch(life.successor)
    if life.successor and not named:
        links.insert(0, f'<{life.successor}>; rel="successor-version"')
    common = ", ".join(links).encode()
    if not named:
        if common:
            headers.append((b"link", common))
        return lambda path: headers
    before = b"</api/" + life.successor.encode()
    after = b'>; rel="successor-version"' + (b", " + common if common else b"")
    cut = len(f"/api/{row.version}")

    def made(path: bytes) -> HeaderList:
        rest = path[cut:]
        if _NO_URI(rest):
            rest = quote(rest, _URI_BYTES).encode()
        return [*headers, (b"link", before + rest + after)]

    return made


def in_words(life: Lifecycle) -> str:
    """What callers are told."""
    parts = []
    if life.deprecated is not None:
        parts.append(f"deprecated {formatdate(life.deprecated, usegmt=True)}")
    if life.sunset is not None:
        parts.append(f"sunset {formatdate(life.sunset, usegmt=True)}")
    if life.successor:
        parts.append(f"successor {life.successor}")
    return ", ".join(parts)
