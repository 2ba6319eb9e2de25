"""`strip_prefix`, `rewrite`, `set_headers`, `remove_headers` and `response_headers`: what a service is sent instead of what
came, and what its clients are told instead of what it said.

SECURITY: services believe the gateway's own headers. A route that could set one would be another caller, tenant or tier; one
that could remove one would be none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kernel.http.headers import FORWARD, HeaderKinds, said_by_gateway
from kernel.http.paths import flaw

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VALUE = re.compile(r"[!-~](?:[ \t!-~]{0,4094}[!-~])?")
_VARIABLE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_SCOPE = "/tenants/{tenant_id}"
_API = re.compile(r"/api/v[1-9][0-9]*")
# Of the client, read for the log alone.
_FREE = "user-agent"
_TRUSTED_FAMILIES = (
    "x-user-",
    "x-tenant-",
    "x-subscription-",
    "x-gateway-",
    "x-demo-",
    "x-service-",
    "x-forwarded-",
    "proxy-",
    "access-control-",
    "sec-websocket-",
)
# Credentials, and what decides whether a request is done twice.
_TRUSTED = frozenset({"authorization", "cookie", "idempotency-key", "x-mirrored"})
_OF_ANSWERS = frozenset(
    {
        "deprecation",
        "idempotent-replayed",
        "location",
        "content-location",
        "proxy-authenticate",
        "set-cookie",
        "sunset",
        "www-authenticate",
        "x-new-access-token",
        "x-new-refresh-token",
        "x-subscription-status",
    }
)

# (field, what is wrong with it, an example)
Complain = Callable[[str, str, str], None]


def read(values: dict[str, Any], complain: Complain) -> None:
    """Bring the fields among `values` into a row's own types; what is wrong with them is left out."""
    if "strip_prefix" in values and "rewrite" in values:
        complain(
            "strip_prefix", "does not go with rewrite: one of them says what is sent", 'rewrite = "/items/**"'
        )
        del values["strip_prefix"]
    made: dict[str, dict[str, str]] = {}
    for field, kind in (("set_headers", "request"), ("response_headers", "answer")):
        if field in values:
            made[field] = _headers(values.pop(field), field, kind, complain)
            values[field] = tuple(made[field].items())
    if "remove_headers" in values:
        names = dict.fromkeys(values["remove_headers"], "")
        removed = _headers(names, "remove_headers", "request", complain, removed=True)
        both = {_plain(name) for name in made.get("set_headers", ())} & {_plain(name) for name in removed}
        for name in sorted(both):
            complain(
                "remove_headers",
                f"{name} is in set_headers, too, which replaces it",
                'remove_headers = ["x-debug"]',
            )
        values["remove_headers"] = tuple(removed)


def _plain(name: str) -> str:
    """One spelling: services may fold `X_User_Id` into the same variable as `X-User-ID`."""
    return name.lower().replace("_", "-")


def reserved(name: str, kind: str) -> bool:
    """Whether a header of a "request" or an "answer" is the gateway's alone, however it is spelt."""
    plain = _plain(name)
    if kind == "answer":
        return plain in _OF_ANSWERS or said_by_gateway(plain.encode())
    if plain in _TRUSTED or plain.startswith(_TRUSTED_FAMILIES):
        return True
    return plain != _FREE and HeaderKinds()[plain.encode()] != FORWARD


def _headers(
    given: Mapping[str, str], field: str, kind: str, complain: Complain, *, removed: bool = False
) -> dict[str, str]:
    found: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in given.items():
        plain = _plain(name)
        example = 'remove_headers = ["x-debug"]' if removed else f'{field} = {{"x-colour" = "blue"}}'
        if not _NAME.fullmatch(name):
            complain(field, f"{name!r} is no name of a header", example)
        elif reserved(name, kind):
            told = "tells clients" if kind == "answer" else "tells services, or checks"
            complain(
                field,
                f"{name}: only the gateway {told} this, in any spelling; it cannot be set or removed",
                example,
            )
        elif value and not _VALUE.fullmatch(value):
            complain(field, f"{name}: a value is printable ASCII of at most 4096 characters", example)
        elif not value and not removed and kind == "request":
            complain(field, f"{name} has no value: remove_headers removes", 'remove_headers = ["x-debug"]')
        elif plain in seen:
            complain(field, f"{name} is there twice: case, '_' and '-' make no difference", example)
        else:
            seen.add(plain)
            found[name.lower()] = value
    return found


def resolved(changes: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """`changes` for rows of `pattern`, `strip_prefix` a `rewrite` as well. Raises ValueError when that cannot be."""
    if "strip_prefix" in changes:
        rest = {field: value for field, value in changes.items() if field != "strip_prefix"}
        stripped = changes["strip_prefix"]
        return {**rest, "rewrite": _stripped(pattern, stripped) if stripped else ""}
    if changes.get("rewrite"):
        _check(changes["rewrite"], pattern)
    return dict(changes)


def _stripped(pattern: str, prefix: str) -> str:
    prefix = prefix.rstrip("/")
    scope = _API.match(pattern)
    twin = prefix
    if scope and pattern.startswith(f"{scope[0]}{_SCOPE}/") and prefix.startswith(f"{scope[0]}/"):
        # The same resource below a tenant.
        twin = f"{scope[0]}{_SCOPE}{prefix.removeprefix(scope[0])}"
    for each in (prefix, twin):
        if pattern == each or pattern.startswith(f"{each}/"):
            return pattern.removeprefix(each) or "/"
    raise ValueError(f"strip_prefix {prefix} is not where {pattern} begins, by whole segments")


def _check(template: str, pattern: str) -> None:
    """Raises ValueError when `template` is no path that requests for `pattern` could be sent to."""
    if not template.startswith("/"):
        raise ValueError("rewrite is no path: it starts with '/'")
    if "?" in template or "#" in template:
        raise ValueError("rewrite is a path alone: the client's query is passed on as it is")
    segments = template[1:].split("/")
    rest = segments[-1] == "**"
    if rest and not pattern.endswith("/**"):
        raise ValueError("rewrite ends in ** but the pattern does not: there is no rest to send")
    named = set(_VARIABLE.findall(pattern))
    plain: list[str] = []
    for segment in segments[:-1] if rest else segments:
        variable = _VARIABLE.fullmatch(segment)
        if variable and variable[1] not in named:
            had = ", ".join(f"{{{name}}}" for name in sorted(named)) or "none"
            raise ValueError(f"rewrite names {segment}, which the pattern has not; it has {had}")
        if not variable and re.search(r"[{}*]", segment):
            raise ValueError(f"rewrite: {segment!r} is not a literal, a {{name}} or a trailing '**'")
        plain.append("x" if variable else segment)
    wrong = flaw(("/" + "/".join([*plain, *(["x"] if rest else [])])).encode())[0]
    if wrong or not template.isascii():
        raise ValueError(f"rewrite is no path that could be sent: {wrong or 'it must be percent-encoded'}")
