"""Scopes: what an API key may be used for, by service and by reading or writing.

    inventory:read   GET, HEAD, OPTIONS of the inventory service      *:read   the same of every service
    inventory:write  POST, PUT, PATCH, DELETE, and WebSockets         *:write
    inventory:*      both                                             *        everything that keys are taken for

Writing does not include reading. What no scope reaches (tokens, tickets, keys, critical operations) is refused to every key.
"""

from __future__ import annotations

from collections.abc import Collection

from kernel.routing.catalog import Limit

ALL = "*"
READ, WRITE, BOTH = "read", "write", "*"
_KINDS = (READ, WRITE, BOTH)


class Rights:
    """What an API key may do, and how often. `limit` None: as often as any client."""

    __slots__ = ("limit", "record", "scopes", "secret")

    def __init__(self, scopes: frozenset[str], limit: Limit | None, record: str, secret: str) -> None:
        self.scopes = scopes
        self.limit = limit
        # The store's key of its record, and the SHA-256 by which this secret is found in it.
        self.record = record
        self.secret = secret


def accepted(needed: str) -> frozenset[str]:
    """The scopes any of which is enough where `needed`, a NAME:KIND, is."""
    name, _, kind = needed.partition(":")
    return frozenset({f"{name}:{kind}", f"{name}:{BOTH}", f"{ALL}:{kind}", ALL})


def check(scope: str, names: Collection[str]) -> None:
    """Raises ValueError, which says what is wrong, for what is no scope here. `names` are those that scopes are made of."""
    if scope == ALL:
        return
    name, colon, kind = scope.partition(":")
    if not colon or kind not in _KINDS or (name == ALL and kind == BOTH):
        raise ValueError(f"a scope is '{ALL}' or NAME:KIND, where KIND is one of {', '.join(_KINDS)}")
    if name != ALL and name not in names:
        raise ValueError(f"a scope's NAME is '{ALL}' or one of {', '.join(sorted(names))}")
