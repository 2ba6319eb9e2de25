"""Sealing: bytes that only the holder of a secret can read, for what passes through the store.

SECURITY: new tokens are shared among workers for a few seconds; whoever reads the store must not get them. The key comes
from the old refresh token, which every party to the sharing holds and the store never sees.
"""

from __future__ import annotations

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


def _cipher(secret: bytes) -> AESGCM:
    return AESGCM(hmac.digest(secret, b"bakery-gateway seal", "sha256"))


def seal(secret: bytes, plain: bytes) -> bytes:
    """`plain`, encrypted and authenticated (AES-256-GCM) under a key derived from `secret`."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _cipher(secret).encrypt(nonce, plain, None)


def unseal(secret: bytes, sealed: bytes) -> bytes | None:
    """What was sealed with `secret`; None for anything else."""
    try:
        return _cipher(secret).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
    except (InvalidTag, ValueError):
        return None
