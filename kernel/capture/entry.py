"""A recording as an entry of HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/), redacted; one line of a capture.

What HAR has no place for stands in members that begin with `_`, as the format allows.
"""

from __future__ import annotations

import base64
import re
import zlib
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote_plus

import orjson

from kernel.capture.recording import Recording
from kernel.capture.redaction import Redactor, headers_of
from kernel.telemetry.redact import ascii_json, without_addresses

_HOST = re.compile(rb"[A-Za-z0-9._-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")
_VERSIONS = {"1": "HTTP/1.0", "1.0": "HTTP/1.0", "1.1": "HTTP/1.1", "2": "HTTP/2"}
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_FORM = "application/x-www-form-urlencoded"
_JSON = re.compile(r"[\w.+-]+/(?:[\w.+-]*\+)?(?:json|x-ndjson|ndjson|json-seq)")
_XML = re.compile(r"[\w.+-]+/(?:[\w.+-]*\+)?xml")
_TEXTS = frozenset({"text/plain", "text/csv", "text/css", "text/javascript", "application/javascript"})
_BINARY = re.compile(
    r"(?:image|audio|video|font)/[\w.+-]+"
    r"|application/(?:octet-stream|pdf|wasm|protobuf|x-protobuf|grpc(?:\+proto)?)"
)
AS_IT_IS = "/%!$&'()*+,;=:@?~-._[]|^`{}\"<>\\"
# Whose redaction is sure. Everything else is left out.
_OMITTED = "no text that can be redacted with certainty"
# A chunk of what is packed may be a thousand times as long unpacked.
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class Encoder:
    """Makes lines of recordings.

    Args:
        key: of the keyed hashes; None: nothing is redacted.
        anonymize: leave out what tells a client's address.
        body_bytes: as the recorder's.
    """

    def __init__(self, key: bytes | None, *, anonymize: bool, body_bytes: int) -> None:
        self._key = key
        self._anonymize = anonymize
        self._body_bytes = body_bytes

    def line(self, recording: Recording) -> bytes:
        """The record's line."""
        return ascii_json(orjson.dumps(self._entry(recording))) + b"\n"

    def _entry(self, recording: Recording) -> dict[str, Any]:
        x = recording.x
        redactor = None if self._key is None else Redactor(self._key)
        sent = without_addresses(recording.headers) if self._anonymize else recording.headers
        # Headers and query first: what they hold is looked for everywhere else.
        asked, told = headers_of(redactor, sent), headers_of(redactor, recording.answer)
        # Bytes that no URL has are escaped; what was escaped, or not, stays so.
        path, query = quote(x.raw_path, safe=AS_IT_IS), quote(recording.query, safe=AS_IT_IS)
        if redactor is not None:
            query = redactor.everywhere(redactor.query(query))
            path = redactor.everywhere(redactor.text(path), cookies=False)
            for header in (*asked, *told):
                header["value"] = redactor.everywhere(header["value"])
        url = (
            _origin(recording)
            + (path if path.startswith("/") else f"/{path}")
            + (f"?{query}" if query else "")
        )
        request: dict[str, Any] = {
            "method": x.method,
            "url": url,
            "httpVersion": _VERSIONS.get(recording.version, recording.version),
            "cookies": _cookies(asked, "cookie"),
            "headers": asked,
            "queryString": _pairs(query),
            "headersSize": -1,
            "bodySize": x.received,
        }
        if recording.asked:
            request["postData"] = self._body(
                redactor, asked, recording.asked, recording.cut_asked, "_encoding"
            )
        kind = _value(told, "content-type")
        content: dict[str, Any] = {"size": x.sent, "mimeType": kind or "x-unknown"}
        if recording.told:
            content |= self._body(redactor, told, recording.told, recording.cut_told, "encoding")
        wait = max((recording.headed or recording.ended) - x.started, 0.0) * 1000
        receive = max(recording.ended - recording.headed, 0.0) * 1000 if recording.headed else 0.0
        # A socket that was accepted has sent no head; who has left is 499 in the log, whatever was sent.
        status = recording.status or (x.status if x.response_started else 0)
        return {
            "startedDateTime": _moment(recording.began),
            "time": round(wait + receive, 3),
            "request": request,
            "response": {
                "status": status,
                "statusText": _PHRASES.get(status, ""),
                "httpVersion": request["httpVersion"],
                "cookies": _cookies(told, "set-cookie"),
                "headers": told,
                "content": content,
                "redirectURL": _value(told, "location"),
                "headersSize": -1,
                "bodySize": x.sent,
            },
            "cache": {},
            "timings": {"send": 0, "wait": round(wait, 3), "receive": round(receive, 3)},
            "connection": recording.client,
            **_own(recording),
        }

    def _body(
        self,
        redactor: Redactor | None,
        headers: list[dict[str, str]],
        parts: list[bytes],
        cut: bool,
        encoding: str,
    ) -> dict[str, Any]:
        """`mimeType` and `text`, which may be Base64 and then has `encoding`."""
        kind = _value(headers, "content-type")
        found: dict[str, Any] = {"mimeType": kind or "x-unknown"}
        data = b"".join(parts)
        packing = _value(headers, "content-encoding").strip().lower()
        if packing not in ("", "identity"):
            try:
                data, more = _unpacked(data, packing, self._body_bytes)
            except (ValueError, zlib.error) as why:
                return found | {"text": "", "_omitted": str(why)}
            cut = cut or more
        plain = kind.partition(";")[0].strip().lower()
        text, binary = _text(data)
        if redactor is not None:
            cleaned = redacted(redactor, plain, text)
            if cleaned is None:
                return found | {"text": "", "_omitted": _OMITTED}
            text = redactor.everywhere(cleaned)
        if binary:
            found |= {"text": base64.b64encode(text.encode("latin-1")).decode(), encoding: "base64"}
        else:
            found["text"] = text
        if plain == _FORM and not binary and encoding == "_encoding":
            found["params"] = _pairs(text)
        if cut:
            found["_truncated"] = True
        return found


def redacted(redactor: Redactor, kind: str, text: str) -> str | None:
    """`text` without secrets; None for what may hold some that cannot be told."""
    # SECURITY: whatever it says it is: `curl -d` calls everything a form.
    document = text.lstrip("\ufeff \t\r\n")[:1] in ("{", "[", '"')
    if document:
        text = redactor.json(text)
    if _BINARY.fullmatch(kind):
        return redactor.text(text)
    if "\0" in text or not (document or kind):
        return None  # text of two bytes a character, or none at all
    if _JSON.fullmatch(kind) or not kind:
        return text if document else redactor.text(text)
    if kind == _FORM:
        return redactor.query(text)
    if _XML.fullmatch(kind):
        return redactor.xml(text)
    return redactor.text(text) if kind in _TEXTS else None


def _text(data: bytes) -> tuple[str, bool]:
    """As text, or byte for byte in Latin-1 and True."""
    try:
        return data.decode(), False
    except UnicodeDecodeError as error:
        if len(data) - error.start < 4 and error.reason == "unexpected end of data":
            return data[: error.start].decode(), False  # a character that was cut in two
        return data.decode("latin-1"), True


def _unpacked(data: bytes, packing: str, most: int) -> tuple[bytes, bool]:
    """What was packed, up to `most` bytes, and whether there was more. Raises ValueError, zlib.error."""
    if packing not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"content-encoding {packing}")
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
    plain = unpacker.decompress(data, most)
    return plain, bool(unpacker.unconsumed_tail) or not unpacker.eof


def _origin(recording: Recording) -> str:
    secure = "s" if recording.x.secure else ""
    host = recording.host.decode() if _HOST.fullmatch(recording.host) else "unknown.invalid"
    return f"{'ws' if recording.socket else 'http'}{secure}://{host}"


def _own(recording: Recording) -> dict[str, Any]:
    x = recording.x
    found: dict[str, Any] = {
        "_request_id": x.request_id,
        "_route": x.route.template,
        "_service": x.service,
        "_caller": x.identity.kind if x.identity is not None else "",
        "_tenant": x.tenant,
        "_upstream_ms": round(x.upstream_seconds * 1000, 3),
        "_phase": x.phase,
        "_ended_by": x.ended_by,
        "_problem": x.problem_code,
    }
    return {name: value for name, value in found.items() if value}


def _moment(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(headers: list[dict[str, str]], name: str) -> str:
    return next((each["value"] for each in headers if each["name"].lower() == name), "")


def _pairs(query: str) -> list[dict[str, str]]:
    found = [part.partition("=") for part in query.split("&") if part]
    return [{"name": unquote_plus(name), "value": unquote_plus(value)} for name, _, value in found]


def _cookies(headers: list[dict[str, str]], name: str) -> list[dict[str, str]]:
    found = []
    for header in headers:
        if header["name"].lower() == name:
            pieces = header["value"].split(";")
            for piece in pieces if name == "cookie" else pieces[:1]:
                key, _, value = piece.strip().partition("=")
                if key:
                    found.append({"name": key, "value": value})
    return found
