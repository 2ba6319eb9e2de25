"""Strict parsing of a compact JWS (RFC 7515 section 7.1), before any key is looked at."""

from __future__ import annotations

from binascii import a2b_base64
from typing import NamedTuple

from kernel.http.problems import TOKEN_MALFORMED, TOKEN_TOO_LARGE
from kernel.identity.errors import TokenError

MAX_TOKEN_BYTES = 8192

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
# Last characters whose unused bits are zero, by segment length modulo 4; a length of 1 modulo 4 encodes nothing.
_LAST = (_ALPHABET, b"", _ALPHABET[::16], _ALPHABET[::4])
_PADDING = (b"", b"", b"==", b"=")


class Compact(NamedTuple):
    """The parts of a token. `signed` is what the signature covers; `head` is the header segment as it came."""

    head: bytes
    signed: bytes
    payload: bytes
    signature: bytes


def decode_segment(segment: bytes) -> bytes:
    """Unpadded base64url (RFC 7515 section 2), in its one canonical spelling. Raises `ValueError`.

    SECURITY: a lenient decoder lets one token be written in many ways, each a miss in every cache and revocation list.
    """
    rest = len(segment) & 3
    if not segment or segment[-1] not in _LAST[rest] or segment.translate(None, _ALPHABET):
        raise ValueError("not canonical base64url")
    return a2b_base64(segment.translate(_TO_STANDARD) + _PADDING[rest])


def parse(token: bytes) -> Compact:
    """Split and decode `token`. Raises `TokenError`: TOKEN_TOO_LARGE, TOKEN_MALFORMED."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenError(TOKEN_TOO_LARGE)
    segments = token.split(b".", 3)
    if len(segments) != 3:
        raise TokenError(TOKEN_MALFORMED, "A token has exactly three parts separated by dots.")
    head, body, tail = segments
    try:
        return Compact(head, token[: len(head) + 1 + len(body)], decode_segment(body), decode_segment(tail))
    except ValueError:
        raise TokenError(
            TOKEN_MALFORMED, "A part of the token is not unpadded, canonical base64url."
        ) from None


def parse_head(head: bytes) -> bytes:
    """The header's JSON. Raises `TokenError`: TOKEN_MALFORMED."""
    try:
        return decode_segment(head)
    except ValueError:
        raise TokenError(TOKEN_MALFORMED, "The token's header is not canonical base64url.") from None
