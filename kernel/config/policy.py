"""The policies of a row or a service in gateway.toml, in the row's own types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from kernel.config import forwarding
from kernel.config.values import NETWORK, size

_MAX_BODY = size(0, 1024**4)
# What opens a route, or says where one path is, is said of each.
_OWN = frozenset({"public", "allow_encoded_slash", "rewrite"})
_OF_CALLERS = frozenset({"min_tier", "service_only"})
_OF_ANSWERS = frozenset({"graphql", "safe", "response_headers"})


def policy(values: dict[str, Any], error: Callable[..., None]) -> dict[str, Any]:
    """`values` of a table, converted; what is wrong with one goes to `error(field, problem, example)`, and it is left out."""
    forwarding.read(values, error)
    if "limit" in values:
        values["limit"] = values["limit"].limit()
    if values.get("graphql"):
        # A query changes nothing, although it is a POST; a mutation is judged when it is read.
        values["safe"] = True
    if values.get("critical") == "":
        values["critical"] = None
    if "max_body" in values:
        try:
            values["max_body"] = _MAX_BODY.parse(str(values["max_body"]))
        except ValueError as why:
            error("max_body", str(why), 'max_body = "50MiB"')
            del values["max_body"]
    for name in ("ip_allow", "ip_deny"):
        if name in values:
            try:
                values[name] = tuple(str(NETWORK.parse(each)) for each in values[name])
            except ValueError as why:
                error(name, str(why), f'{name} = ["10.0.0.0/8"]')
                del values[name]
    return values


def inherited(of_service: Mapping[str, Any], own: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """What a new row at `pattern`, whose table says `own`, has by its service's table.

    SECURITY: a row that only limits a path of a service must not open it to other networks, callers or tiers.
    """
    left = set(_OWN)
    if own.get("public"):
        left |= _OF_CALLERS
    if own.get("websocket"):
        left |= _OF_ANSWERS
    if "limit" in own:
        left.add("limit_key")
    if "graphql" in own:
        left.add("safe")
    found = {field: value for field, value in of_service.items() if field not in left}
    prefix = found.pop("strip_prefix", "")
    if prefix and "rewrite" not in own:
        with suppress(ValueError):  # the pattern is elsewhere: there is nothing to strip
            found |= forwarding.resolved({"strip_prefix": prefix}, pattern)
    return found
