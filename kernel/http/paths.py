"""Is this path safe to route and forward as it is?

SECURITY: the gateway authorises the bytes it forwards, so anything a service might read differently is refused: dot
segments (also encoded, also before ';'), encoded slashes and backslashes, NUL and control bytes, broken
percent-encoding, empty inner segments, and what is no UTF-8 once decoded: `%c0%ae` is an overlong '.', which a lenient
decoder takes for one.
RFC 3986 sections 2.1, 2.5 and 3.3; RFC 3629 section 10.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

# SECURITY: the detailed look comes before the rate limit; at 60 KiB it would take 20 ms.
MAX_CODED = 4096
# PERF: 0.6 us for the paths nearly every request has; everything else is looked at in detail.
_PLAIN = re.compile(rb"(?:/(?!\.\.?(?:/|\Z))[A-Za-z0-9\-._~!$&'()*+,=:@]+)*/?").fullmatch
_PCHARS = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*").fullmatch
_ENCODED_CONTROL = re.compile(rb"%(?:[01][0-9A-Fa-f]|7[Ff])").search
_ENCODED_SLASH = re.compile(rb"%2[Ff]").search
_ENCODED_BACKSLASH = re.compile(rb"%5[Cc]").search
_SPLIT = re.compile(rb"/|%2[Ff]").split
_SLASHES = re.compile(rb"(/|%2[Ff])").split
_DOT = re.compile(rb"%2[Ee]")
_PARAMETERS = re.compile(rb";|%3[Bb]").split


def has_encoded_slash(path: bytes) -> bool:
    """Whether `path` has a %2F, which a route may allow."""
    return _ENCODED_SLASH(path) is not None


def plainest(path: bytes) -> bytes:
    """`path` as the most lenient service may read it: decoded but for slashes, and without parameters (`;v=1`)."""
    segments = _SLASHES(path)
    segments[::2] = [unquote_to_bytes(_PARAMETERS(segment, 1)[0]) for segment in segments[::2]]
    return b"".join(segments)


def flaw(path: bytes) -> tuple[str, bool]:
    """What is wrong with a raw path ("" if nothing) and whether it has percent-encoding or parameters, so that there are
    other ways to write it."""
    if path and _PLAIN(path):
        return "", False
    if not path.startswith(b"/"):
        return "The target must be a path that starts with '/'.", False
    if len(path) > MAX_CODED:
        return f"A path with percent-encoding or parameters may have at most {MAX_CODED} bytes.", False
    if not _PCHARS(path):
        return "The path has a byte that must be percent-encoded, or broken percent-encoding.", False
    if _ENCODED_CONTROL(path):
        return "The path has an encoded control character.", False
    if _ENCODED_BACKSLASH(path):
        return "The path has an encoded backslash.", False
    if b"//" in path:
        return "The path has an empty segment.", False
    for segment in _SPLIT(path):
        name = _DOT.sub(b".", _PARAMETERS(segment, 1)[0])
        if name in {b".", b".."}:
            return "The path has a dot segment.", False
        if segment and not name:
            return "The path has a segment of parameters alone.", False
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return "The path is not UTF-8 behind its percent-encoding.", False
    return "", True


def second_look(
    path: bytes, pattern: str, allow_encoded_slash: bool, same_route: Callable[[bytes], bool]
) -> str:
    """What is wrong with `path` being the route's of `pattern`, given that there are other ways to write it ("" if nothing).

    SECURITY: /subscriptions and /%73ubscriptions are one address to a service; it must not be two routes here, the second
    one with lesser demands. `same_route` tells whether a path is the route's, too.
    """
    if not allow_encoded_slash and has_encoded_slash(path):
        return "The path has an encoded slash."
    # A pattern that is itself percent-encoded or has parameters means that spelling.
    if "%" in pattern or ";" in pattern or same_route(plainest(path)):
        return ""
    return "The path is another route's, once it is decoded or rid of parameters: send that one."
