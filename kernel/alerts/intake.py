"""What services publish on `alerts:tenant:{tenant_id}`: a JSON object with alert_id, severity, message, timestamp, ...

Nothing but the size and the shape is demanded, and the object reaches clients as it was published, whatever RFC 8259 allows
in it. An alert without a usable `alert_id` (text or an integer) goes by the digest of its content: published twice, it is
still one alert.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from kernel.alerts.event import Payload, encode_payload
from kernel.primitives.tenant_id import canonical
from kernel.store.keys import ALERT_CHANNEL_PREFIX

_PREFIX = ALERT_CHANNEL_PREFIX.encode()
_MAX_ID = 256
_MAX_LABEL = 64
# A string of JSON, or the white space between two parts of it.
_BETWEEN = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+')


class Malformed(Exception):
    """A message that is no alert; the argument is one word that says why."""


class Alert(NamedTuple):
    """An alert to be recorded: `key` identifies it within its tenant, `payload` is an encoded `Payload`."""

    tenant: str
    key: str
    payload: bytes


class _Published(Struct):
    alert_id: Any = None
    severity: Any = None
    type: Any = None


_decoder = msgspec.json.Decoder(_Published)


def parse(channel: bytes, data: bytes, max_bytes: int) -> Alert:
    """The alert that was published as `data`.

    Raises:
        Malformed: tenant, too-large, not-utf8, not-json, not-object, too-deep.
    """
    try:
        tenant = canonical(channel.removeprefix(_PREFIX).decode("latin-1"))
    except ValueError:
        raise Malformed("tenant") from None
    if len(data) > max_bytes:
        raise Malformed("too-large")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Malformed("not-utf8") from None
    try:
        try:
            published = _decoder.decode(data)
            # Without the line ends that JSON may have between its parts.
            line = msgspec.json.format(data, indent=-1)
        except msgspec.DecodeError:
            published = _read(text)
            line = _BETWEEN.sub(rb"\1", data)
    except RecursionError:
        raise Malformed("too-deep") from None
    payload = Payload(
        _key(published.alert_id, line), _label(published.severity).lower(), _label(published.type), line
    )
    return Alert(tenant, payload.key, encode_payload(payload))


def _read(text: str) -> _Published:
    """What msgspec refuses and RFC 8259 does not: half a surrogate pair, as JSON.stringify writes it after a slice through
    an emoji (section 8.2), and numbers beyond a double (section 6). Browsers' JSON.parse takes both.

    Raises:
        Malformed: not-json, not-object.
    """
    try:
        found = json.loads(text, parse_int=_integer, parse_constant=_no_constant)
    except ValueError:
        raise Malformed("not-json") from None
    if not isinstance(found, dict):
        raise Malformed("not-object")
    return _Published(found.get("alert_id"), found.get("severity"), found.get("type"))


def _integer(digits: str) -> int | None:
    # SECURITY: a conversion takes the square of its digits, and Python refuses more than 4,300 of them.
    return int(digits) if len(digits) <= _MAX_ID else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _key(alert_id: object, line: bytes) -> str:
    if isinstance(alert_id, int) and not isinstance(alert_id, bool):
        alert_id = str(alert_id)
    if isinstance(alert_id, str) and 0 < len(alert_id) <= _MAX_ID:
        try:
            alert_id.encode()
        except UnicodeEncodeError:  # half a surrogate pair is no text that a store could keep
            line = alert_id.encode("utf-8", "surrogatepass")
        else:
            return alert_id
    return "sha256:" + hashlib.sha256(line).hexdigest()


def _label(value: object) -> str:
    """A word that a filter can ask for; "" for what none can."""
    return value if isinstance(value, str) and len(value) <= _MAX_LABEL and value.isascii() else ""
