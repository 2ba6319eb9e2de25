"""What an error is: a kind, of which there is a catalogue (problems.py), and an occurrence of it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import msgspec

from kernel.primitives.api_key import MARK, redact

Headers = tuple[tuple[bytes, bytes], ...]

CATALOGUE: dict[str, ProblemKind] = {}
# What `quote` leaves alone in a path: all that RFC 3986 section 3.3 allows there.
_URI_BYTES = "/%-._~!$&'()*+,;=:@"
_BARE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")


class ProblemKind:
    """One row of the error catalogue.

    `remedy` tells the caller what to do; it is the detail of an occurrence that gives none of its own.
    """

    __slots__ = ("code", "prefix", "remedy", "status", "title")

    def __init__(self, code: str, status: int, title: str, remedy: str) -> None:
        self.code = code
        self.status = status
        self.title = title
        self.remedy = remedy
        # The constant part of the document is encoded once; an occurrence appends its own members.
        constant = {"type": f"/problems/{code}", "title": title, "status": status, "code": code}
        self.prefix = msgspec.json.encode(constant)[:-1]
        CATALOGUE[code] = self

    def __call__(self, detail: str = "", headers: Headers = ()) -> Problem:
        return Problem(self, detail or self.remedy, headers)

    def __repr__(self) -> str:
        return f"ProblemKind({self.code!r}, {self.status})"


class Problem:
    """One occurrence: `detail` says what happened here, `headers` go out with it (Retry-After, Allow, ...)."""

    __slots__ = ("detail", "headers", "kind")

    def __init__(self, kind: ProblemKind, detail: str, headers: Headers = ()) -> None:
        self.kind = kind
        self.detail = detail
        self.headers = headers

    def encode(self, instance: bytes, request_id: str) -> bytes:
        """The `application/problem+json` document. `instance` is the request's raw path, without its query.

        A path that is no URI reference (RFC 9457 section 3.1.5) is made one.
        """
        named = _BARE_PERCENT.sub("%25", quote(instance, _URI_BYTES)) if instance else ""
        detail = self.detail
        # SECURITY: what a client wrote into a path or a field's name is quoted; documents end up in others' logs.
        if MARK in named or MARK in detail:
            named, detail = redact(named, lambda secret: "%5Bredacted%5D"), redact(detail)
        rest = msgspec.json.encode({"detail": detail, "instance": named, "request_id": request_id})
        return self.kind.prefix + b"," + rest[1:]

    def __repr__(self) -> str:
        return f"Problem({self.kind.code!r}, {self.detail!r})"


class Extended(Problem):
    """One with `members` of its own beside the usual ones (RFC 9457 section 3.2)."""

    __slots__ = ("members",)

    def __init__(
        self, kind: ProblemKind, detail: str, headers: Headers = (), members: dict[str, Any] | None = None
    ) -> None:
        super().__init__(kind, detail, headers)
        self.members = members or {}

    def encode(self, instance: bytes, request_id: str) -> bytes:
        return super().encode(instance, request_id)[:-1] + b"," + msgspec.json.encode(self.members)[1:]
