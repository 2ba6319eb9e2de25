"""The services' own documents, as they are now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kernel.http.problems import GatewayError
from kernel.routing.catalog import Service
from kernel.upstream.client import Answer

_MAX_BYTES = 1024 * 1024
_AT_ONCE = 8

Call = Callable[[str, str], Awaitable[Answer]]


async def fetched(services: tuple[Service, ...], call: Call) -> dict[str, bytes | str]:
    """The document of each service, or why there is none, in their order. `call(service, path)` asks for one."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def fetch(service: Service) -> bytes | str:
        async with turns:
            return await _document(service, call)

    answers = await asyncio.gather(*(fetch(service) for service in services))
    return {service.name: answer for service, answer in zip(services, answers, strict=True)}


async def _document(service: Service, call: Call) -> bytes | str:
    try:
        answer = await call(service.name, service.openapi)
    except GatewayError as error:
        return error.problem.kind.title.lower()
    if answer.status != 200:
        return f"{service.openapi} answered {answer.status}"
    if len(answer.body) > _MAX_BYTES:
        return f"the document has more than {_MAX_BYTES} bytes"
    return answer.body
