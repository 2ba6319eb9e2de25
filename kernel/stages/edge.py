"""Edge: who is calling, over what, and may this request come in at all.

Decides the client's address and scheme (forwarded headers are believed only from TRUSTED_PROXIES), then refuses foreign
hosts, plain HTTP where HTTPS is demanded, oversize heads and announced bodies over the limit.
"""

from __future__ import annotations

import re
from typing import Final

from kernel.config import Settings
from kernel.exchange.exchange import Exchange, Stage
from kernel.exchange.phase import Phase
from kernel.http.addresses import canonical, forwarded_client, forwarded_elements
from kernel.http.headers import HTTP_1_0
from kernel.http.key_problems import API_KEY_IN_URL
from kernel.http.problems import (
    BAD_HOST,
    BAD_REQUEST,
    BODY_TOO_LARGE,
    HEADERS_TOO_LARGE,
    HTTPS_REDIRECT,
    HTTPS_REQUIRED,
    Problem,
)
from kernel.primitives.api_key import MARK_BYTES, within
from kernel.primitives.memo import keep
from kernel.routing.catalog import RouteRow
from kernel.state import State

NAME: Final = Phase("edge")

_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")
_PORT = re.compile(rb":[0-9]*\Z")
_CHAIN = re.compile(rb"[0-9A-Za-z:._\[\], \t-]*")
_SAFE = frozenset({"GET", "HEAD"})
_MEMO_LIMIT = 256
# The connection goes: whoever framed this so may mean something else by what follows.
_BAD_FRAMING = BAD_REQUEST(
    "Content-Length must be one decimal number, Transfer-Encoding 'chunked' and nothing else.",
    ((b"connection", b"close"),),
)
# It stands in logs: nobody's key may be one.
_REQUEST_ID = re.compile(rb"(?!bkgw_)[A-Za-z0-9_-]{8,128}")


def describe(settings: Settings, row: RouteRow) -> str:
    """What the stage demands of a request, in words; empty where it has no part in the route."""
    hosts = ", ".join(settings.allowed_hosts) or "any host"
    body = row.max_body or settings.max_body_bytes
    https = "HTTPS only; " if settings.https_only else ""
    return f"{https}{hosts}; head up to {settings.max_header_bytes} bytes, body up to {body} bytes"


def _bad_query(query: bytes) -> Problem | None:
    # SECURITY: before anything logs, redirects or forwards it; what logs URLs would have the key otherwise.
    if MARK_BYTES in query and within(query):
        return API_KEY_IN_URL()
    return None if query.isascii() else BAD_REQUEST("The query has a byte that must be percent-encoded.")


def make(state: State, row: RouteRow) -> Stage:
    """The edge stage of a route. Health and admin routes answer over plain HTTP too: probes and scrapers come by address."""
    settings = state.settings
    trusted = state.trusted
    hosts = tuple(host.lower().encode() for host in settings.allowed_hosts)
    exact = frozenset(host for host in hosts if not host.startswith(b"*."))
    suffixes = tuple(host[1:] for host in hosts if host.startswith(b"*."))
    direct = row.direct
    https_only = settings.https_only and not direct
    any_host = not hosts or direct
    header_limit = settings.max_header_bytes
    too_large = f"Target and headers may have at most {header_limit} bytes."
    body_limit = row.max_body or settings.max_body_bytes
    # SECURITY: a stranger learns of an admin route by its limit; who may use it is told when the body is read.
    announced_limit = settings.max_body_bytes if row.admin else body_limit

    def believe(x: Exchange, peer: str) -> None:
        """Take client, scheme, host and request id from a trusted proxy's headers, each from what that proxy itself said."""
        captured = x.captured
        chain = captured.get(b"x-forwarded-for", b"")
        proto = captured.get(b"x-forwarded-proto", b"")
        host = captured.get(b"x-forwarded-host", b"")
        if not chain and b"forwarded" in captured:
            chain, proto_too, host_too = forwarded_elements(captured[b"forwarded"])
            proto = proto or proto_too
            host = host or host_too
        if chain:
            x.client_ip = forwarded_client(peer, chain, trusted)
            if b"x-forwarded-for" in captured and not _CHAIN.fullmatch(chain):
                captured[b"x-forwarded-for"] = (
                    x.client_ip.encode()
                )  # goes on to services, who may read anything into it
        if proto:
            x.secure = proto.rpartition(b",")[2].strip().lower() in {b"https", b"wss"}
        if host:
            host = host.rpartition(b",")[2].strip()
            if _HOST.fullmatch(host):
                captured[b"host"] = host
        given = captured.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            x.request_id = given.decode()
            x.trace = b""
            x.extra[0] = (b"x-request-id", given)

    # PERF: hosts found good before; spares the regular expressions (0.4 us).
    served: dict[bytes, bool] = {}

    def edge(x: Exchange) -> Problem | None:
        peer = x.scope["client"][0]
        x.client_ip = peer if peer[:2] != "::" else canonical(peer)
        x.secure = x.scope["scheme"] in {"https", "wss"}
        captured = x.captured
        if peer in trusted:
            x.peer_trusted = True
            believe(x, peer)
        if x.head_bytes() > header_limit:
            return HEADERS_TOO_LARGE(too_large)
        if x.query and (refused := _bad_query(x.query)) is not None:
            return refused
        host = captured.get(b"host", b"")
        if host not in served:
            if host:
                if not _HOST.fullmatch(host):
                    return BAD_HOST("Send one Host header with one host name.")
                name = _PORT.sub(b"", host.lower())
                if not any_host and name not in exact and not name.endswith(suffixes):
                    return BAD_HOST("This gateway does not serve that host.")
                keep(served, host, True, _MEMO_LIMIT)
            elif not any_host or x.scope["http_version"] not in HTTP_1_0:
                # HTTP/1.0 has none (RFC 1945): health checks of load balancers. To the server a missing one is an empty one.
                return BAD_HOST("The request has no Host header.")
        if https_only and not x.secure:
            if x.method in _SAFE and host:
                target = (
                    b"https://" + _PORT.sub(b"", host) + x.raw_path + (b"?" + x.query if x.query else b"")
                )
                return HTTPS_REDIRECT(headers=((b"location", target),))
            return HTTPS_REQUIRED()
        if x.content_length != -1:
            if x.content_length < 0:
                return _BAD_FRAMING
            if x.content_length > announced_limit:
                return BODY_TOO_LARGE(f"The body may have at most {announced_limit} bytes.")
        x.max_body = body_limit
        return None

    return edge
