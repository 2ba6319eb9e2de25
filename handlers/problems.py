"""`/problems` and `/problems/{code}`: what errors mean and what to do about them. Problem documents' `type` leads here."""

from __future__ import annotations

from html import escape
from http import HTTPStatus
from itertools import groupby

import msgspec
from msgspec import Struct

from kernel.exchange.exchange import Exchange, Handler
from kernel.http.pages import HEADERS, links, page, wants_html
from kernel.http.problems import CATALOGUE, CLIENT_GONE, ROUTE_UNKNOWN, GatewayError, ProblemKind
from kernel.openapi.own import Answer, Operation, Operations
from kernel.state import Factories

_CACHED = (b"cache-control", b"public, max-age=3600")
_VARY = (b"vary", b"Accept")
_JSON = (b"content-type", b"application/json")
_ABOVE = '<a href="/">Bakery Gateway</a> &middot; <a href="/problems">problems</a>'
# Retrying these without a change is of no use, or of use.
_WHO = {
    4: "The request is refused as it stands: the same one again has the same answer until what is said above has changed.",
    5: "Nothing is wrong with the request. If it is safe to repeat, try again after Retry-After, with growing pauses.",
}
_LATER = "The same request may succeed later: wait for as long as Retry-After says."
_RETRIED = frozenset({408, 409, 425, 429})


class _Kind(Struct):
    """A row of the catalogue."""

    code: str
    status: int
    title: str
    remedy: str


class _Catalogue(Struct):
    problems: list[_Kind]


OPERATIONS: Operations = {
    "GET problems": Operation(
        "What a problem means and what to do about it",
        "documentation",
        {200: Answer("A page for browsers, JSON for others", _Kind)},
    ),
    "GET problems-index": Operation(
        "All problems that the gateway can answer with",
        "documentation",
        {200: Answer("A page for browsers, JSON for others", _Catalogue)},
    ),
}


def explain() -> Handler:
    """The handler of one problem's page."""

    async def handle(x: Exchange) -> None:
        kind = CATALOGUE.get(x.params[0].decode("latin-1"))
        if kind is None:
            raise GatewayError(ROUTE_UNKNOWN("There is no problem with that code."))
        if wants_html(x.scope["headers"]):
            await x.respond(200, [*HEADERS, _CACHED, _VARY], _page(kind))
        else:
            await x.respond(200, [_JSON, _CACHED, _VARY], msgspec.json.encode(_kind(kind)))

    return handle


def index() -> Handler:
    """The handler of the page of all problems."""

    async def handle(x: Exchange) -> None:
        kinds = sorted(CATALOGUE.values(), key=lambda kind: (kind.status, kind.code))
        if wants_html(x.scope["headers"]):
            await x.respond(200, [*HEADERS, _CACHED, _VARY], _index(kinds))
        else:
            catalogue = _Catalogue([_kind(kind) for kind in kinds])
            await x.respond(200, [_JSON, _CACHED, _VARY], msgspec.json.encode(catalogue))

    return handle


def _kind(kind: ProblemKind) -> _Kind:
    return _Kind(kind.code, kind.status, kind.title, kind.remedy)


def _index(kinds: list[ProblemKind]) -> bytes:
    body = [
        "<p>Every refusal is an <code>application/problem+json</code> document (RFC 9457). Its <code>code</code> is one of "
        "these and never changes; <code>detail</code> says what happened in this case, and <code>request_id</code> finds it "
        "in the logs."
    ]
    for status, group in groupby(kinds, key=lambda kind: kind.status):
        body.append(f"<h2>{status} {escape(_phrase(status))}</h2>")
        body.append(links([(f"/problems/{kind.code}", kind.code, kind.title) for kind in group]))
    return page("Problems", "\n".join(body), '<a href="/">Bakery Gateway</a>')


def _page(kind: ProblemKind) -> bytes:
    example = {
        "type": f"/problems/{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "code": kind.code,
        "detail": kind.remedy,
        "instance": "/api/v1/inventory/items",
        "request_id": "5b6c2f6e-8a1d-4f0e-9a53-0c7c1d2b9e41",
    }
    again = _LATER if kind.status in _RETRIED else _WHO.get(kind.status // 100, "")
    body = f"""<p class="faint">HTTP {kind.status} {escape(_phrase(kind.status))} &middot; <code>{kind.code}</code>
<h2>What to do</h2>
<p>{escape(kind.remedy)}
<h2>Again?</h2>
<p>{again}
<h2>What the answer looks like</h2>
<pre><code>{escape(msgspec.json.format(msgspec.json.encode(example)).decode(), quote=False)}</code></pre>
<p class="faint">Match on <code>code</code>; the texts may change. Whoever runs the gateway finds this very case by its
<code>request_id</code> in the access log, which also says in which phase it ended, and all of its kind in the metric
<code>gateway_problems_total{{code=&quot;{kind.code}&quot;}}</code>."""
    return page(kind.title, body, _ABOVE)


def _phrase(status: int) -> str:
    return "The client has left" if status == CLIENT_GONE.status else HTTPStatus(status).phrase


FACTORIES: Factories = {
    "problems": lambda state, row: explain(),
    "problems-index": lambda state, row: index(),
}
