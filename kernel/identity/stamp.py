"""Stamps: what the gateways read back from the store and believe, they must have written.

SECURITY: whoever can write to the store decides what services tell by it (freshness, locks, revocation: see
docs/threats.md). What the gateway remembers there for itself decides who somebody is and whom a group oversees: it carries a
code that only gateways can make, and one without it is as good as absent.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence


class Stamp:
    """Marks values as ours, with a key made from the first of `secrets`, which the gateways of a platform share. Marks of
    the others are known: while a secret is changed, gateways with the old and the new one believe each other."""

    __slots__ = ("_keys",)

    def __init__(self, secrets: Sequence[str]) -> None:
        about = b"bakery-gateway second-level cache"
        self._keys = tuple(hmac.digest(secret.encode(), about, "sha256") for secret in secrets)

    def put(self, name: str, value: bytes) -> bytes:
        """`value` as it is stored under `name`: a token's fingerprint, or a name of its own for whatever else it is."""
        return b"%b:%b" % (_code(self._keys[0], name, value), value)

    def take(self, name: str, stored: bytes) -> bytes | None:
        """The value; None for what no gateway stored under this name."""
        code, _, value = stored.partition(b":")
        for key in self._keys:
            if hmac.compare_digest(code, _code(key, name, value)):
                return value
        return None


def _code(key: bytes, name: str, value: bytes) -> bytes:
    return hmac.digest(key, b"%b:%b" % (name.encode(), value), "sha256").hex().encode()
