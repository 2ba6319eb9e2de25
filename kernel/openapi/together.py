"""The document of all services and the gateway: what is in it, and what could not be used and why."""

from __future__ import annotations

from collections.abc import Mapping

from kernel import __version__
from kernel.openapi.merge import API_KEY, BEARER, merge
from kernel.openapi.parts import MAX_ALL, Json, Unusable
from kernel.openapi.routed import Table, routed_to
from kernel.openapi.source import Source
from kernel.routing.catalog import V1, RouteRow

_LIST = "\n\nNot in here, because the document of the service could not be used: "

SCHEMES: Json = {
    BEARER: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token of the auth service (log in to get one), or a service token.",
    },
    API_KEY: {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "A key that an owner of the tenant has made for a program: POST /api/v1/tenants/{tenant_id}/api-keys. "
        "The scope that an operation needs is its `x-api-key-scope`. Never in a URL, never in a page.",
    },
}
_ABOUT = (
    "Everything that is served here: the gateway's own endpoints and those of the services behind it. "
    "Any operation may answer with a problem document (RFC 9457) of the gateway's, such as 401, 403, 429 or 503."
)


def merged(
    own: bytes,
    found: Mapping[str, bytes | str],
    rows: tuple[RouteRow, ...],
    version: str = V1,
    index: tuple[Json, ...] = (),
) -> tuple[bytes, bool]:
    """The document of `own` and the services' (or why there is none), and whether all of them were there and sound.

    It is `version`'s; `index` tells of all versions' documents.
    """
    table = Table(rows)
    sources = [Source(None, own, routed_to(table, None))]
    made = sources[0].size
    states: Json = {}
    missing: list[str] = []
    for service, body in found.items():
        state: Json = {"included": False}
        states[service] = state
        try:
            if isinstance(body, str):
                raise Unusable(body)
            source = Source(service, body, routed_to(table, service))
            if made + source.size > MAX_ALL:
                raise Unusable(f"all documents together would have more than {MAX_ALL >> 20} MiB")
        except Unusable as why:
            state["reason"] = str(why)
            missing.append(service)
            continue
        sources.append(source)
        made += source.size
        title, own_version = source.title
        state.update(
            {"included": True, "title": title, "version": own_version, "operations": len(source.served)}
        )
        if source.left_out:
            state["left_out"] = source.left_out
        if source.not_told:
            state["left_out_too"] = source.not_told
    about = _ABOUT + (_LIST + ", ".join(missing) + "." if missing else "")
    head: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Bakery Gateway" + (f", {version}" if version != V1 else ""),
            "version": __version__,
            "description": about,
        },
        "servers": [{"url": "/"}],
        "x-services": states,
        **({"x-versions": index} if index else {}),
    }
    return merge(head, sources, SCHEMES), not missing
