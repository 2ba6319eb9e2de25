"""What services publish on `alerts:tenant:{tenant_id}`: a JSON object with alert_id, severity, message, timestamp, ...

Nothing but the size and the shape is demanded, and the object reaches clients as it was published. An alert without a
usable `alert_id` (text or an integer) goes by the digest of its content: published twice, it is still one alert.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from kernel.alerts.event import Payload, encode_payload
from kernel.primitives.tenant_id import canonical
from kernel.store.keys import ALERT_CHANNEL_PREFIX

_PREFIX = ALERT_CHANNEL_PREFIX.encode()
_MAX_ID = 256
_MAX_LABEL = 64


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
        Malformed: tenant, too-large, not-utf8, not-json, not-object.
    """
    try:
        tenant = canonical(channel.removeprefix(_PREFIX).decode("latin-1"))
    except ValueError:
        raise Malformed("tenant") from None
    if len(data) > max_bytes:
        raise Malformed("too-large")
    try:
        data.decode()
    except UnicodeDecodeError:
        raise Malformed("not-utf8") from None
    try:
        published = _decoder.decode(data)
        # Without the line ends that JSON may have between its parts.
        line = msgspec.json.format(data, indent=-1)
    except msgspec.ValidationError:
        raise Malformed("not-object") from None
    except (msgspec.DecodeError, RecursionError):
        raise Malformed("not-json") from None
    payload = Payload(
        _key(published.alert_id, line), _severity(published.severity), _type(published.type), line
    )
    return Alert(tenant, payload.key, encode_payload(payload))


def _key(alert_id: object, line: bytes) -> str:
    if isinstance(alert_id, int) and not isinstance(alert_id, bool):
        alert_id = str(alert_id)
    if isinstance(alert_id, str) and 0 < len(alert_id) <= _MAX_ID:
        return alert_id
    return "sha256:" + hashlib.sha256(line).hexdigest()


def _severity(value: object) -> str:
    return value.lower() if isinstance(value, str) and len(value) <= _MAX_LABEL else ""


def _type(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= _MAX_LABEL else ""
