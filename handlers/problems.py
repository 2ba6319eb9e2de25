"""`/problems/{code}`: what an error means and what to do about it; the target of every problem document's `type`."""

from __future__ import annotations

from html import escape
from typing import Any

import msgspec

from kernel.exchange.exchange import Exchange, Handler
from kernel.http.problems import CATALOGUE, ROUTE_UNKNOWN, GatewayError, ProblemKind
from kernel.openapi.own import Answer, Operation, Operations
from kernel.state import Factories

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>:root{{color-scheme:light dark}}
body{{font:1.1rem/1.6 system-ui,sans-serif;max-width:38rem;margin:15vh auto;padding:0 1.5rem;color:#222;background:#fff}}
code{{background:#f3f0ea;padding:.1em .4em;border-radius:.3em}}small{{color:#6b6b6b}}
@media(prefers-color-scheme:dark){{body{{color:#e8e4dc;background:#1c1c1c}}code{{background:#37332b}}small{{color:#a8a29a}}}}</style>
<p><small>HTTP {status} &middot; <code>{code}</code></small>
<h1>{title}</h1>
<p>{remedy}
</html>
"""
_CACHED = (b"cache-control", b"public, max-age=3600")
_POLICY = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'")
_VARY = (b"vary", b"Accept")


def _document(kind: ProblemKind) -> bytes:
    return msgspec.json.encode(
        {"code": kind.code, "status": kind.status, "title": kind.title, "remedy": kind.remedy}
    )


OPERATIONS: Operations = {
    "GET problems": Operation(
        "What a problem means and what to do about it",
        "documentation",
        {200: Answer("A page for browsers, JSON for others", dict[str, Any])},
    )
}


def make() -> Handler:
    """The handler: HTML for browsers, JSON for everybody else."""

    async def explain(x: Exchange) -> None:
        kind = CATALOGUE.get(x.params[0].decode("latin-1"))
        if kind is None:
            raise GatewayError(ROUTE_UNKNOWN("There is no problem with that code."))
        accepted = b",".join(value for name, value in x.scope["headers"] if name == b"accept")
        if b"text/html" in accepted:
            values = {
                "code": kind.code,
                "title": kind.title,
                "remedy": kind.remedy,
                "status": str(kind.status),
            }
            page = _PAGE.format(**{name: escape(value) for name, value in values.items()})
            await x.respond(
                200, [(b"content-type", b"text/html; charset=utf-8"), _CACHED, _VARY, _POLICY], page.encode()
            )
        else:
            await x.respond(200, [(b"content-type", b"application/json"), _CACHED, _VARY], _document(kind))

    return explain


FACTORIES: Factories = {"problems": lambda state, row: make()}
