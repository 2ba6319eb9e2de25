"""What must never reach a log, and bytes that must never reach a terminal.

SECURITY: clients choose paths, header values and user agents. A token pasted into a path must not be readable in a log,
and control characters (CR/LF forge lines, ESC and C1 drive terminals) only ever appear escaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from ipaddress import ip_address, ip_network

from kernel.primitives.api_key import MARK
from kernel.primitives.api_key import redact as without_keys

REDACTED = "[redacted]"
_SECRET_NAME = re.compile(
    r"authoriz|x-auth|cookie|token|secret|passw|pwd|api.?key|private.?key|credential|ticket|session|jwt|signature|csrf|xsrf|websocket.protocol",
    re.IGNORECASE,
)
_ADDRESS_NAME = re.compile(rb"forwarded|client-?ip|connecting-?ip|real-?ip|remote-?addr", re.IGNORECASE)
_JWT = re.compile(r"eyJ[A-Za-z0-9_=-]{4,}(?:\.[A-Za-z0-9_=-]*)*")
_PAIR = re.compile(r"(?i)((?:token|ticket|secret|passw(?:or)?d|api_?key|signature)=)([^&;\s\"']+)")
# A word alone ("bearer token missing") is no token.
_BEARER = re.compile(r"(?i)\b(bearer)[\s,]+(?=[A-Za-z~+/=-]*[0-9._])([A-Za-z0-9._~+/=-]{4,})")
_USERINFO = re.compile(r"(://[^/\s:@]*:)([^/\s@]+)@")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL)
_UNSAFE = re.compile(r"[^\x20-\x7e\n]")
_UNSAFE_LINE = re.compile(r"[^\x20-\x7e]")
_MAX_PATH = 2048


def is_secret(name: str) -> bool:
    """Whether a header or field of this name holds something a log must not."""
    return _SECRET_NAME.search(name) is not None


def clean_path(path: bytes) -> str:
    """A raw path (no query) for a log: bounded, without tokens."""
    text = path[:_MAX_PATH].decode("latin-1")
    # PERF: three scans (0.1 us) instead of four regexes (1 us) for the paths nearly every request has.
    if "eyJ" in text or "=" in text:
        text = _PAIR.sub(r"\1" + REDACTED, _JWT.sub(REDACTED, text))
    return without_keys(text) if MARK in text else text


def clean_text(text: str, mark: Callable[[str], str] = lambda secret: REDACTED) -> str:
    """Free text (an error's message) without tokens, passwords in URLs and private keys; `mark` gives what stands there."""
    text = _JWT.sub(lambda found: mark(found[0]), _PEM.sub(lambda found: mark(found[0]), text))
    text = without_keys(text, mark)
    text = _USERINFO.sub(lambda found: f"{found[1]}{mark(found[2])}@", text)
    text = _BEARER.sub(lambda found: f"{found[1]} {mark(found[2])}", text)
    return _PAIR.sub(lambda found: found[1] + mark(found[2]), text)


def clean_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers for a log; repeated ones are joined by a comma."""
    result: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1")
        value = REDACTED if is_secret(name) else clean_text(raw_value.decode("latin-1"))
        result[name] = f"{result[name]}, {value}" if name in result else value
    return result


def without_addresses(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    """Headers without those in which proxies tell a client's address."""
    return ((name, value) for name, value in headers if _ADDRESS_NAME.search(name) is None)


def ascii_json(encoded: bytes) -> bytes:
    r"""JSON lines in plain printable ASCII: everything else becomes `\uXXXX`, which every JSON reader turns back.

    Only strings of a JSON document can hold such characters, so that the whole text may be searched.
    """
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    return _UNSAFE.sub(_escape, encoded.decode("utf-8", "replace")).encode("ascii")


def ascii_line(text: str) -> str:
    r"""One line of plain printable ASCII; everything else becomes `\uXXXX`."""
    return text if text.isascii() and text.isprintable() else _UNSAFE_LINE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join("\\u" + units[at : at + 4] for at in range(0, len(units), 4))


class Anonymizer:
    """`LOG_ANONYMIZE`: IP addresses cut to their network, user ids replaced by a keyed hash.

    The key is derived from the deployment's secret, so that a person keeps one pseudonym over restarts and instances
    (their lines can be found when they ask for them) while nobody without the secret can test guesses.
    Changing the secret unlinks everything written before.
    """

    __slots__ = ("_ips", "_key", "_users")

    def __init__(self, secret: bytes) -> None:
        self._key = blake2b(secret, digest_size=32, person=b"gateway-log-anon").digest()
        self._ips: dict[str, str] = {}
        self._users: dict[str, str] = {}

    def ip(self, address: str) -> str:
        """The /24 (IPv4) or /48 (IPv6) of `address`; "" for what is no address."""
        known = self._ips.get(address)
        return known if known is not None else _remember(self._ips, address, _network(address))

    def user(self, user_id: str) -> str:
        """The pseudonym of a user id, 16 hexadecimal digits."""
        known = self._users.get(user_id)
        if known is None:
            digest = blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8, key=self._key)
            known = _remember(self._users, user_id, digest.hexdigest())
        return known


def _remember(known: dict[str, str], key: str, value: str) -> str:
    if len(known) >= 4096:
        known.clear()
    known[key] = value
    return value


def _network(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return ""
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    prefix = 24 if parsed.version == 4 else 48
    return str(ip_network((parsed, prefix), strict=False))
