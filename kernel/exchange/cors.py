"""CORS (the Fetch standard, section 3.2): which origins may read answers, and what a preflight is told.

Header lists are made once an origin and reused; origins that only match a pattern are remembered up to a bound.
"""

from __future__ import annotations

import re

from kernel.exchange.asgi import HeaderList
from kernel.exchange.exchange import Exchange
from kernel.primitives.memo import keep
from kernel.routing.catalog import METHODS

# What the gateway says, and what services do that a front end needs: where a thing is, its version, its name as a file, how
# many there are. Beside what any page may read (the Fetch standard, section 2.2.6).
EXPOSED = (
    b"location, etag, content-disposition, x-total-count, content-range, accept-ranges, "
    b"x-request-id, retry-after, ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, "
    b"x-ratelimit-reset, x-subscription-status, x-new-access-token, x-new-refresh-token, warning, "
    b"deprecation, sunset, link, idempotent-replayed"
)
MAX_AGE = 600
_VARY: HeaderList = [(b"vary", b"Origin")]
_TOKENS = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_MEMO_LIMIT = 1024


class Cors:
    """Answers, for an `Origin` value, the headers its responses carry."""

    __slots__ = ("_any", "_credentials", "_exact", "_exposed", "_max_age", "_memo", "_patterns")

    def __init__(
        self,
        origins: tuple[str, ...],
        credentials: bool,
        exposed: tuple[str, ...] = (),
        max_age: int = MAX_AGE,
    ) -> None:
        more = [name.encode() for name in exposed]
        self._exposed = b", ".join([EXPOSED, *more])
        self._max_age = b"%d" % max_age
        self._any = "*" in origins
        self._credentials = credentials and not self._any
        self._exact = frozenset(origin.encode() for origin in origins if "*" not in origin)
        self._patterns = tuple(
            # `https://*.example.com`: any number of labels below, never the bare domain, the same scheme and port.
            re.compile(re.escape(origin).replace(r"\*", r"[a-z0-9-]+(?:\.[a-z0-9-]+)*").encode())
            for origin in origins
            if "*" in origin and origin != "*"
        )
        self._memo: dict[bytes, HeaderList] = {}

    def headers(self, origin: bytes) -> HeaderList:
        """The CORS headers of a response to `origin`; only `Vary` when it is not allowed."""
        known = self._memo.get(origin)
        if known is None:
            known = keep(self._memo, origin, self._make(origin), _MEMO_LIMIT)
        return known

    def allowed(self, origin: bytes) -> bool:
        """Whether `origin` may read answers; also the check of a WebSocket's Origin."""
        return self._any or origin in self._exact or any(p.fullmatch(origin) for p in self._patterns)

    def _make(self, origin: bytes) -> HeaderList:
        if not self.allowed(origin):
            return _VARY
        if self._any:
            return [
                (b"access-control-allow-origin", b"*"),
                (b"access-control-expose-headers", self._exposed),
                *_VARY,
            ]
        headers = [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", self._exposed),
            *_VARY,
        ]
        if self._credentials:
            headers.append((b"access-control-allow-credentials", b"true"))
        return headers

    def vary(self) -> HeaderList:
        """What a response without an Origin needs, so that caches keep the answers apart."""
        return _VARY

    def preflight(self, x: Exchange) -> HeaderList:
        """The headers that answer a preflight, beside those of `headers`."""
        if not self.allowed(x.captured[b"origin"]):
            return []
        headers: HeaderList = [
            (b"access-control-allow-methods", ", ".join(sorted(METHODS)).encode()),
            (b"access-control-max-age", self._max_age),
        ]
        asked = x.captured.get(b"access-control-request-headers")
        # Reflected, since '*' means nothing with credentials; anything but a list of tokens is left out.
        if asked and len(asked) <= 1024 and _TOKENS.fullmatch(asked):
            headers.append((b"access-control-allow-headers", asked))
        return headers
