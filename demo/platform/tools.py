"""Helpers that every stub service offers beside its own routes, for developers and for tests; no document shows them.

/health                           its state and counters
/openapi.json                     its own OpenAPI document
/api/v1/<prefix>                  what it serves
/api/v1/<prefix>/echo             exactly what it received, any method (also below echo/, and tenant-scoped)
/api/v1/<prefix>/slow?ms=500      answers after that long
/api/v1/<prefix>/status/{code}    answers with that status
/api/v1/<prefix>/bytes/{n}        n bytes, with a length
/api/v1/<prefix>/stream?n=5&ms=0  n chunks without a length, ms apart; each a line of JSON
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from demo.platform.messages import Request, Response, as_number, digest, reply
from demo.platform.openapi import document
from demo.platform.service import Service

_ECHO_BYTES = 4096
_BLOCK = b"0123456789abcdef" * 4096
_MAX_BYTES = 8 << 30
_MAX_WAIT_MS = 600_000


def equip(service: Service) -> None:
    """Adds the helpers; to be called when the service has all of its own routes."""
    cached: list[Response] = []

    async def echo(request: Request) -> Response:
        length, sha, start = await digest(request, _ECHO_BYTES)
        return reply(
            {
                "service": service.name,
                "method": request.method,
                "target": request.target,
                "version": request.version,
                "headers": request.headers,
                "body_length": length,
                "body_sha256": sha,
                "body_text": start.decode("utf-8", "replace"),
            }
        )

    def health(_: Request) -> Response:
        counters = service.server.counters
        return reply(
            {
                "status": "healthy",
                "service": service.name,
                "requests": counters.requests,
                # The one that is being answered is not counted: an idle service says 0.
                "in_flight": counters.in_flight - 1,
                "cancelled": counters.cancelled,
                "failures": counters.failures,
                "connections": len(service.server.connections),
            }
        )

    def openapi(_: Request) -> Response:
        if not cached:
            cached.append(reply(document(service.name, service.routes)))
        return cached[0]

    def index(_: Request) -> Response:
        offers = [
            {"methods": list(route.methods) or ["*"], "path": route.pattern, "summary": route.summary}
            for route in service.routes
            if route.pattern.startswith("/api/v1/") and "/{tenant_id}/" not in route.pattern
        ]
        return reply({"service": service.name, "routes": offers})

    service.add("GET", "", index, "What this service offers", rows=None)
    service.add("", "/echo", echo, "Exactly what the service received", rows=None)
    service.add("", "/echo/**", echo, "Exactly what the service received", rows=None)
    service.add("GET POST", "/slow", _slow, "Answers after ?ms= milliseconds", rows=None)
    service.add("", "/status/{code}", _status, "Answers with that status", rows=None)
    service.add("GET", "/bytes/{count}", _bytes, "That many bytes", rows=None)
    service.add("GET", "/stream", _stream, "?n= chunks, ?ms= milliseconds apart", rows=None)
    service.add_path("GET", "/health", health, "State and counters", rows=None)
    service.add_path("GET", "/openapi.json", openapi, "This document", rows=None)


async def _slow(request: Request) -> Response:
    wait = request.number("ms", 500, 0, _MAX_WAIT_MS)
    await asyncio.sleep(wait / 1000)
    return reply({"waited_ms": wait})


def _status(request: Request) -> Response:
    code = as_number("code", request.params["code"], 200, 599)
    if code in (204, 304):
        return Response(code)
    headers: tuple[tuple[str, str], ...] = ()
    if 300 <= code < 400:
        headers = (("location", request.path.rpartition("/status/")[0]),)
    return reply({"status": code}, code, headers)


def _bytes(request: Request) -> Response:
    count = as_number("count", request.params["count"], 0, _MAX_BYTES)
    return Response(200, _blocks(count), (("content-type", "application/octet-stream"),), count)


async def _blocks(count: int) -> AsyncIterator[bytes]:
    whole, rest = divmod(count, len(_BLOCK))
    for _ in range(whole):
        yield _BLOCK
    if rest:
        yield _BLOCK[:rest]


def _stream(request: Request) -> Response:
    count = request.number("n", 5, 0, 1_000_000)
    pause = request.number("ms", 0, 0, _MAX_WAIT_MS)
    return Response(200, _lines(count, pause / 1000), (("content-type", "application/x-ndjson"),))


async def _lines(count: int, pause: float) -> AsyncIterator[bytes]:
    for number in range(count):
        if number:
            await asyncio.sleep(pause)
        yield msgspec.json.encode({"chunk": number}) + b"\n"
