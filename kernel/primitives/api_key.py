"""API keys as text: made, recognised, and kept out of whatever is written down.

    bkgw_  aaaaaaaa  bbbbbbbbbbbbbbbbbbbbbb  cccccc
    prefix id: 8     secret: 22              checksum: 6          all of 0-9 A-Z a-z, 41 characters in all

The id names the key and is no secret; both are random, the secret of 131 bits. The checksum is the CRC-32 of these 30
characters, in base 62 with leading zeros: whoever scans for lost keys can tell one without asking anybody, and what is no key
costs no look into the store. There is one spelling: nothing is trimmed, folded or decoded.
"""

from __future__ import annotations

import re
import secrets
from binascii import crc32
from collections.abc import Callable

# The header that a key comes in, and nowhere else.
HEADER = b"x-api-key"
PREFIX = "bkgw_"
# What every key begins with, whichever way its underscore is written in a URL.
MARK = "bkgw"
MARK_BYTES = MARK.encode()
# For secret scanners; the checksum leaves one in 60,000 million chance hits.
PATTERN = r"\bbkgw_[0-9A-Za-z]{36}\b"
ID_PATTERN = r"\A[0-9A-Za-z]{8}\Z"

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID = 8
_SECRET = 22
_FORM = re.compile(rb"bkgw_([0-9A-Za-z]{8})[0-9A-Za-z]{22}[0-9A-Za-z]{6}")
# Also of one that was cut short, or mistyped.
_ANY = re.compile(r"bkgw(?:_|%5[Ff])[0-9A-Za-z]{4,}")
_IN_QUERY = re.compile(rb"bkgw(?:_|%5[Ff])[0-9A-Za-z]{36}")


def new_id() -> str:
    """A name for a new key."""
    return _random(_ID)


def new_key(key_id: str) -> str:
    """A new secret of the key `key_id`, as its holder gets it."""
    body = key_id + _random(_SECRET)
    return PREFIX + body + checksum(body.encode())


def checksum(body: bytes) -> str:
    """The last six characters of a key whose other thirty are `body`."""
    left = crc32(body)
    digits = ""
    for _ in range(6):
        left, digit = divmod(left, 62)
        digits = _DIGITS[digit] + digits
    return digits


def id_of(given: bytes) -> str | None:
    """The id of a well-formed key whose checksum is right; None for anything else."""
    found = _FORM.fullmatch(given)
    if found is None or checksum(given[5:35]) != given[35:].decode():
        return None
    return found[1].decode()


def within(query: bytes) -> bool:
    """Whether a raw query has what looks like a key."""
    return _IN_QUERY.search(query) is not None


def redact(text: str, mark: Callable[[str], str] = lambda secret: "[redacted]") -> str:
    """`text` without keys, whole or not; `mark` gives what stands there."""
    return _ANY.sub(lambda found: mark(found[0]), text)


def _random(length: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(length))
