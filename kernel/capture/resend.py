"""What of a captured request is sent again, and what is never.

SECURITY: credentials never are, in whichever capture they stand: what the gateway redacted and what a browser exported as it
was; in headers, cookies, queries and bodies. Who replays says with whose rights.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote_plus

from kernel.capture.compare import Answer
from kernel.capture.entry import AS_IT_IS, redacted
from kernel.capture.reading import Body, Entry, Pair
from kernel.capture.redaction import MARK, Redactor, secret_name
from kernel.http.headers import HOP_BY_HOP, TRUSTED

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# Why a request is left out.
UNSAFE = "changes something (--unsafe sends it)"
SOCKET = "a WebSocket or a stream"
UNANSWERED = "was not answered"
SECRET_PATH = "has a secret in its path"  # noqa: S105
BODY_MISSING = "its body was not captured whole"
BODY_SECRET = "its body holds a secret, or may"  # noqa: S105
STRANGE = "is no request that can be sent"

_METHOD = re.compile(r"[A-Z]{1,20}")
_URL = re.compile(r"(?i)(https?|wss?)://[^/?#]*([^#]*)")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# Of the connection, of the hop, of the capture's own way through proxies; or made anew.
_NOT_SENT = (
    HOP_BY_HOP
    | (TRUSTED - {b"x-tenant-id"})
    | {
        b"host",
        b"content-length",
        b"expect",
        b"forwarded",
        b"via",
        b"x-real-ip",
        b"x-client-ip",
        b"true-client-ip",
    }
    | {
        b"cf-connecting-ip",
        b"traceparent",
        b"tracestate",
        b"accept-encoding",
        b"http2-settings",
        b"x-replayed",
    }
)
_FAMILIES = ("x-forwarded-", "sec-websocket-", "proxy-", "x-mirrored")
_CREDENTIALS = frozenset({"authorization", "cookie", "x-api-key"})
_BROWSER_TOKENS = frozenset({"token", "ticket"})


TOKEN, KEY = "token", "api-key"
# By tenant ("" for those that are not named) and kind: the header that says who asks.
Credentials = Mapping[tuple[str, str], tuple[bytes, bytes]]


class Outgoing(NamedTuple):
    """A request as it is sent, but for Host and framing; names in lower case."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    # Its query had a secret, and has not any more.
    shortened: bool = False


class Resender:
    """Makes requests of captured ones.

    Args:
        credentials: what takes the place of those that were captured, of the same kind where there is one.
        unsafe: also what changes something.
    """

    def __init__(self, credentials: Credentials, *, unsafe: bool) -> None:
        self._credentials = credentials
        self._unsafe = unsafe
        self._key = secrets.token_bytes(32)

    def request(self, entry: Entry) -> Outgoing | str:
        """The request, or why it is left out."""
        asked = entry.request
        found = _URL.fullmatch(asked.url)
        if found is None or not _METHOD.fullmatch(asked.method) or asked.method in ("CONNECT", "TRACE"):
            return STRANGE
        if (
            found[1].lower().startswith("ws")
            or entry.response.status == 101
            or _streams(entry.response.content)
        ):
            return SOCKET
        if asked.method not in SAFE and not self._unsafe:
            return UNSAFE
        if not 100 <= entry.response.status <= 999:
            return UNANSWERED
        redactor = Redactor(self._key)
        path, _, query = found[2].partition("?")
        if MARK.search(path) or redactor.text(path) != path:
            return SECRET_PATH
        kept, dropped = _query(redactor, query)
        body = self._body(redactor, entry)
        if isinstance(body, str):
            return body
        target = quote(path if path.startswith("/") else f"/{path}", safe=AS_IT_IS) + ("?" if kept else "")
        headers = self._headers(redactor, asked.headers)
        names = {pair.name.lower() for pair in asked.headers}
        # A browser's export has often lost the credentials: nobody can tell whether there were any.
        if dropped or not entry.request_id or not names.isdisjoint(_CREDENTIALS):
            kinds = (KEY, TOKEN) if "x-api-key" in names and "authorization" not in names else (TOKEN, KEY)
            known = [(tenant, kind) for tenant in (entry.tenant, "") for kind in kinds]
            headers += [self._credentials[each] for each in known if each in self._credentials][:1]
        headers.append((b"x-replayed", b"1"))
        raw = target.encode() + quote(kept, safe=AS_IT_IS).encode()
        return Outgoing(asked.method, raw, tuple(headers), body, len(kept) < len(query))

    def _headers(self, redactor: Redactor, pairs: list[Pair]) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = []
        packed = "identity"
        for pair in pairs:
            name, value = pair.name.lower(), pair.value
            if name == "idempotency-key":
                # Another's key would be answered with what was stored for it; requests that shared one still do.
                fresh = hmac.digest(self._key, value.encode("utf-8", "surrogatepass"), "sha256")[:16].hex()
                headers.append((b"idempotency-key", f"replay-{fresh}".encode()))
            elif name == "accept-encoding":
                packed = "gzip" if "gzip" in value.lower() else "identity"
            elif _sendable(redactor, name, value):
                headers.append((name.encode(), value.encode("latin-1")))
        headers.append((b"accept-encoding", packed.encode()))
        return headers

    def _body(self, redactor: Redactor, entry: Entry) -> bytes | str:
        """The body, or why the request is left out."""
        asked = entry.request
        body = asked.body
        if body is None or (body.text is None and not asked.size):
            return BODY_MISSING if (asked.size or 0) > 0 else b""
        if body.text is None or body.truncated or body.omitted:
            return BODY_MISSING
        try:
            packed = base64.b64decode(body.text, validate=True) if body.own_encoding == "base64" else None
        except (binascii.Error, ValueError):
            return STRANGE
        text = body.text if packed is None else packed.decode("latin-1")
        kind = body.mime.partition(";")[0].strip().lower()
        if MARK.search(text) or redacted(redactor, kind, text) != text:
            return BODY_SECRET
        return text.encode("utf-8", "surrogatepass") if packed is None else packed


def answer(entry: Entry) -> Answer:
    """What the request was answered when it was captured."""
    told = entry.response
    content = told.content
    text = "" if content.text is None and content.size == 0 else content.text
    if content.omitted:
        text = None
    elif text is not None and content.encoding == "base64":
        try:
            text = as_text(base64.b64decode(text))
        except (binascii.Error, ValueError):
            text = None
    headers = tuple((pair.name.lower(), pair.value) for pair in told.headers if not pair.name.startswith(":"))
    return Answer(told.status, headers, text, content.truncated)


def as_text(body: bytes) -> str:
    """A body as answers are compared."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("latin-1")


def _streams(content: Body) -> bool:
    return content.mime.startswith("text/event-stream")


def _query(redactor: Redactor, query: str) -> tuple[str, bool]:
    """The query without its secrets, and whether one of them said who asks."""
    kept: list[str] = []
    named = False
    for part in query.split("&"):
        name, _, value = part.partition("=")
        plain = unquote_plus(value)
        if secret_name(unquote_plus(name)) or MARK.search(plain) or redactor.text(plain) != plain:
            named = named or unquote_plus(name) in _BROWSER_TOKENS
        else:
            kept.append(part)
    return "&".join(kept), named


def _sendable(redactor: Redactor, name: str, value: str) -> bool:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        return False  # a browser's ":authority" and the like, or what would end the line
    if name.encode() in _NOT_SENT or name.startswith(_FAMILIES):
        return False
    return not MARK.search(value) and redactor.header(name, value) == value
