"""The second-level cache's format: what one worker verified, as bytes that another need not verify again.

Stored are the claims we use and the key that vouched for them, never the token. On the way back everything but the
signature is checked again, with the keys and the policy of that moment.

SECURITY: what is read there is believed without a signature, so it carries a code that only gateways can make, for this very
token (see stamp.py): whoever can write to the store must not be able to become anybody.
"""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Struct

from kernel.identity.claims import Claims
from kernel.identity.errors import TokenError
from kernel.identity.identity import Identity
from kernel.identity.tokens import Verifier

ACCESS_SECONDS = 900
SERVICE_SECONDS = 300
REMOTE = "remote"  # the `trust` of what the auth service vouched for


class Record(Struct, frozen=True):
    v: int
    trust: str
    claims: Claims


_VERSION = 1
_decoder = msgspec.json.Decoder(Record)


def fingerprint(token: bytes) -> str:
    """SHA-256 of the whole token, hexadecimal: its name in the store."""
    return hashlib.sha256(token).hexdigest()


def lifetime(identity: Identity, now: float) -> int:
    """Whole seconds the identity may be kept; 0 = not at all. `now` is Unix seconds."""
    limit = SERVICE_SECONDS if identity.kind == "service" else ACCESS_SECONDS
    return max(0, min(limit, int(identity.exp - now)))


def encode(identity: Identity) -> bytes:
    """The value to store for `identity`."""
    return msgspec.json.encode(Record(_VERSION, identity.trust, identity.claims))


def restore(raw: bytes, token: bytes, verifier: Verifier) -> Identity | None:
    """The identity of a stored value, now also in the worker's own cache; None when it is malformed, of another
    version, expired, or not what today's keys and policy would accept."""
    try:
        record = _decoder.decode(raw)
    except (ValueError, RecursionError):
        return None
    if record.v != _VERSION:
        return None
    try:
        identity = revive(record.trust, record.claims, verifier)
    except TokenError:
        return None
    if identity is not None:
        verifier.cache.put(token, identity)
    return identity


def revive(trust: str, claims: Claims, verifier: Verifier) -> Identity | None:
    """The identity of claims that `trust` once vouched for; None when it vouches for nobody today.

    Raises:
        TokenError: they have expired, or today's policy does not accept them.
    """
    key = verifier.keys.trusted.get(trust)
    # SECURITY: a key that is gone takes its tokens along; the auth service's word counts only while we would ask it.
    if key is None and (trust != REMOTE or verifier.keys.verifies_users):
        return None
    return verifier.admit(claims, key, trust)
