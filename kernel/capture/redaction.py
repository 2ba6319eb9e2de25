"""Redaction: what a capture holds instead of secrets.

A secret's place is taken by `[redacted:0123456789abcdef]`, a keyed hash: equal secrets stay equal within a file, and who has
the file cannot test guesses, for the key is in no file that outlives the gateway.

SECURITY: bodies are redacted by their kind, and one of a kind that is not known here is left out: nothing is kept because
nobody thought of it. A body that was cut off is redacted like a whole one: its parts are found by scanning, not by parsing.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote, unquote_plus

import orjson

from kernel.primitives.api_key import redact as without_keys
from kernel.telemetry.redact import clean_text, is_secret

MARK = re.compile(r"\[redacted:[0-9a-f]{16}\]")
# Beside what logs redact: what OpenTelemetry's conventions redact in queries, and what pays or opens by itself.
_MORE_NAMES = re.compile(
    r"(?i)(?:^|[_.-])(?:sig|auth|pin|cvv2?|cvc2?|otp|iban)$|awsaccesskeyid|card.?number|passcode|passphrase"
    r"|idempotency.?key"
)
# What may have to be redacted, in lower case. Nothing of it, and a text is as it was: most are.
# PERF: 2 us for a user agent; 35 if the expression ignored case, which keeps `re` from skipping by first letters.
_SUSPECT = re.compile(
    r"authoriz|x-auth|cookie|token|secret|passw|pwd|api.?key|private.?key|credential|ticket|session|jwt|signature|csrf|xsrf"
    r"|websocket.protocol|sig|auth|pin|cv[vc]|otp|iban|awsaccess|card|passcode|passphrase|idempot|eyj|bkgw|://[^/\s]*@|bearer|\\u"
)
# SECURITY: whoever sends the text wants these to take long. Each begins where a run of its characters begins, and no two
# repetitions in a row share one: the time is linear in the text (a test holds it to that).
_PAIR = re.compile(
    r"""(?<![\w.%\[\]-])([\w.%\[\]-]+)(["']?[ \t]*([=:])[ \t]*)("[^"\\]*(?:\\.[^"\\]*)*"?|'[^']*'?|[^\s"'&;,<>]+)""",
    re.DOTALL,
)
_TAG = re.compile(r"<([\w:.-]+)(?=[\s/>])([^<>]*)>([^<]+)")
_JSON = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[{}\[\]:,]|[^\s{}\[\]:,"]+', re.DOTALL)
_TELLING = re.compile(r"[0-9_~+/.-]")
# A shorter one would be found within other words; and nobody has more credentials than so many.
_SHORTEST = 8
_MOST_FOUND = 32
_LONGEST_NAME = 64
# Around a name, in which its line begins and ends, if it is one of its own.
_LINE = 80
# Members that say what another one, beside them and after them, holds: {"name": "password", "value": "..."}.
_NAMING = frozenset({"name", "key", "field", "id", "type"})
_HARMLESS = frozenset({"true", "false", "null"})


@lru_cache(maxsize=4096)
def secret_name(name: str) -> bool:
    """Whether a header, parameter or member of this name holds a secret. PERF: 2 us, 0.1 when it was asked before."""
    return is_secret(name) or _MORE_NAMES.search(name) is not None


class Redactor:
    """Redacts one record. What its headers held is also replaced wherever else it stands (`everywhere`)."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._found: dict[str, str] = {}
        self._cookies: dict[str, str] = {}

    def mark(self, secret: str) -> str:
        """What stands in the place of `secret`."""
        if not secret or MARK.fullmatch(secret):
            return secret
        digest = hmac.digest(self._key, secret.encode("utf-8", "surrogatepass"), "sha256")
        return f"[redacted:{digest[:8].hex()}]"

    def header(self, name: str, value: str) -> str:
        """The value of a header; names in lower case."""
        if name in {"authorization", "proxy-authorization"}:
            scheme, blank, credentials = value.partition(" ")
            return f"{scheme} {self._remember(credentials.strip())}" if blank else self._remember(value)
        if name == "cookie":
            return ";".join(map(self._cookie, value.split(";")))
        if name == "set-cookie":
            cookie, sign, rest = value.partition(";")
            return self._cookie(cookie) + sign + rest
        if secret_name(name) and not name.startswith("access-control-"):
            return self._remember(value)
        return self.text(value)

    def query(self, query: str) -> str:
        """A query, or a form, as it is on the wire."""
        parts = re.split(r"([&;])", query)
        for place in range(0, len(parts), 2):
            name, equals, value = parts[place].partition("=")
            if equals and secret_name(unquote_plus(name)):
                self._remember(unquote_plus(value))
                parts[place] = f"{name}={self.mark(unquote_plus(value))}"
            elif equals and (plain := unquote_plus(value)) != (cleaned := self.text(plain)):
                parts[place] = f"{name}={quote(cleaned, safe='[]:/')}"
            elif not equals:
                parts[place] = self.text(parts[place])
        return "".join(parts)

    def text(self, text: str) -> str:
        """Text of no kind in particular: tokens, and what stands behind a secret's name."""
        if not _SUSPECT.search(text.lower()):
            return text
        return _PAIR.sub(self._pair, clean_text(text, self.mark))

    def xml(self, text: str) -> str:
        """Elements of a secret's name, too."""

        def element(found: re.Match[str]) -> str:
            name, rest, inner = found.groups()
            return f"<{name}{rest}>{self.mark(inner)}" if secret_name(name) and inner.strip() else found[0]

        return self.text(_TAG.sub(element, text))

    def json(self, text: str) -> str:
        """JSON, whole or cut off, one document or several; what is not redacted stays as it was written."""
        if not _SUSPECT.search(text.lower()):
            return text
        scan = _JsonScan(self)
        # An API key is known by its form, also as a member's name.
        return without_keys("".join(scan.pieces(text)), self.mark)

    def everywhere(self, text: str, *, cookies: bool = True) -> str:
        """`text` without the secrets that headers and queries held, however they got there; of `cookies`, too.

        A cookie may hold what is no secret, such as the tenant, which paths are made of.
        """
        for found in (self._found, self._cookies) if cookies else (self._found,):
            for secret, mark in found.items():
                if secret in text:
                    text = text.replace(secret, mark)
        return text

    def _cookie(self, pair: str) -> str:
        name, sign, value = pair.partition("=")
        if not sign:
            return self._remember(pair.strip(), self._cookies)
        return f"{name}={self._remember(value.strip(), self._cookies)}"

    def _remember(self, secret: str, found: dict[str, str] | None = None) -> str:
        found = self._found if found is None else found
        mark = self.mark(secret)
        if len(secret) >= _SHORTEST and len(found) < _MOST_FOUND:
            found[secret] = found[quote(secret, safe="")] = mark
        return mark

    def _pair(self, found: re.Match[str]) -> str:
        name, between, sign, value = found.groups()
        if not secret_name(name) or value.lower() in _HARMLESS:
            return found[0]
        # Prose ("token: missing") is no pair; a quoted name, a line of its own or a telling value is.
        around = value[0] if value[0] in "\"'" else ""
        prose = sign == between.strip() == ":" and not around and _TELLING.search(value) is None
        if prose and not _alone(found):
            return found[0]
        return f"{name}{between}{around}{self.mark(value.strip(around) if around else value)}{around}"


def _alone(found: re.Match[str]) -> bool:
    """Whether it has a line of its own."""
    text, start, end = found.string, found.start(), found.end()
    before = text[max(start - _LINE, 0) : start].rstrip(" \t")
    after = text[end : end + _LINE].lstrip(" \t\r")
    begins = before.endswith("\n") or (not before and start <= _LINE)
    return begins and (after.startswith("\n") or (not after and end + _LINE >= len(text)))


class _JsonScan:
    """Walks over the tokens of JSON text and knows below which name each stands."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._secret = False  # the value to come stands below a secret's name
        self._naming = False  # a string to come is a member's name
        self._names = False  # the value to come names what stands beside it
        self._around: list[tuple[str, bool]] = []

    def pieces(self, text: str) -> Iterable[str]:
        end = 0
        for found in _JSON.finditer(text):
            yield text[end : found.start()]
            yield self._piece(found[0])
            end = found.end()
        yield text[end:]

    def _piece(self, piece: str) -> str:
        around = self._around
        if piece in "{[":
            around.append((piece, self._secret))
            self._naming = piece == "{"
        elif piece in "}]":
            if around:
                around.pop()
            self._settle()
        elif piece == ",":
            self._settle()
        elif piece == ":":
            self._naming = False
        elif self._naming:
            name = _decoded(piece)
            self._secret = (bool(around) and around[-1][1]) or secret_name(name)
            self._names = not self._secret and name.lower() in _NAMING
        else:
            return self._scalar(piece)
        return piece

    def _settle(self) -> None:
        kind, self._secret = self._around[-1] if self._around else ("", False)
        self._naming = kind == "{"
        self._names = False

    def _scalar(self, piece: str) -> str:
        text = _decoded(piece) if piece[0] == '"' else piece
        if self._secret:
            return piece if text in _HARMLESS or not text else f'"{self._redactor.mark(text)}"'
        if self._names and len(text) <= _LONGEST_NAME and secret_name(text):
            self._around[-1] = ("{", True)
        cleaned = self._redactor.text(text)
        return piece if cleaned == text else orjson.dumps(cleaned).decode()


def _decoded(piece: str) -> str:
    """The text of a string as JSON has it, perhaps cut off."""
    if "\\" not in piece:
        return piece.strip('"')
    for end in ("", '"'):
        try:
            return str(orjson.loads(piece + end))
        except orjson.JSONDecodeError:
            continue
    return piece.strip('"')


def headers_of(redactor: Redactor | None, pairs: Iterable[tuple[bytes, bytes]]) -> list[dict[str, str]]:
    """Headers as HAR has them; bytes beyond ASCII are read as Latin-1."""
    found = []
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        found.append(
            {"name": name, "value": value if redactor is None else redactor.header(name.lower(), value)}
        )
    return found
