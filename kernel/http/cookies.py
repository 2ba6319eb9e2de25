"""Cookies of requests (RFC 6265 section 5.4), as far as the gateway reads them."""

from __future__ import annotations

from collections.abc import Iterator

REFRESH_TOKEN = b"refresh_token"


def _pairs(header: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each cookie's name, and its whole text."""
    for part in header.split(b";"):
        text = part.strip()
        if text:
            yield text.partition(b"=")[0].rstrip(), text


def cookie(header: bytes, name: bytes) -> bytes | None:
    """The value of the first cookie called `name` in a `Cookie` header."""
    for found, text in _pairs(header):
        if found == name:
            return text.partition(b"=")[2].strip().strip(b'"')
    return None


def without(header: bytes, name: bytes) -> bytes:
    """A `Cookie` header less every cookie called `name`."""
    return b"; ".join(text for found, text in _pairs(header) if found != name)
