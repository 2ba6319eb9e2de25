"""`ca`, `client_cert` and `client_key` of a service: the files read once, and found usable before anybody needs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernel.config.reading import Unreadable, contents
from kernel.routing.catalog import Trust

FIELDS = ("ca", "client_cert", "client_key")
_MAX_FILE = 4 * 1024 * 1024
_EXAMPLES = {
    "ca": 'ca = "/run/tls/internal-ca.crt"',
    "client_cert": 'client_cert = "/run/tls/gateway.crt"',
    "client_key": 'client_key = "/run/tls/gateway.key"',
}
_KEY = b"PRIVATE KEY-----"

# (field, what is wrong with it, an example)
Complain = Callable[[str, str, str], None]


def read(values: dict[str, Any], complain: Complain) -> Trust | None:
    """Take the fields out of `values`; None when there are none, or something is wrong with them."""
    paths = {field: values.pop(field) for field in FIELDS if field in values}
    for field, other in (("client_cert", "client_key"), ("client_key", "client_cert")):
        if other in paths and field not in paths:
            complain(field, f"is needed beside {other}", _EXAMPLES[field])
            return None
    found: dict[str, bytes] = {}
    for field, path in paths.items():
        try:
            found[field] = contents(Path(path), _MAX_FILE)
        except Unreadable as why:
            complain(field, f"the file {path} {why}", _EXAMPLES[field])
    if not paths or len(found) < len(paths):
        return None
    ca, chain, key = (found.get(field, b"") for field in FIELDS)
    return Trust(ca, chain + b"\n" + key if chain else b"") if _sound(found, complain) else None


def _sound(found: dict[str, bytes], complain: Complain) -> bool:
    """Whether they can be used, by what will use them."""
    import ssl  # noqa: PLC0415  # 10 ms that most starts need not spend

    from kernel.primitives.tls import client_context, explain, has_certificate  # noqa: PLC0415

    sound = True

    def wrong(field: str, what: str) -> None:
        nonlocal sound
        sound = False
        complain(field, what, _EXAMPLES[field])

    for field in ("ca", "client_cert"):
        if field in found and not has_certificate(found[field]):
            wrong(field, "the file holds no PEM certificate")
    key = found.get("client_key")
    if key is not None and _KEY not in key:
        wrong("client_key", "the file holds no PEM private key")
    elif key is not None and b"ENCRYPTED" in key:
        wrong(
            "client_key", "the key is encrypted: store it without a passphrase, readable to the gateway only"
        )
    if not sound:
        return False
    if "ca" in found:
        try:
            client_context(found["ca"])
        except ssl.SSLError as error:
            wrong("ca", f"the file cannot be used: {explain(error)}")
    if key is not None:
        try:
            client_context(found.get("ca", b""), found["client_cert"] + b"\n" + key)
        except ssl.SSLError as error:
            if sound:
                wrong("client_key", f"is not the key of the certificate in client_cert ({explain(error)})")
    return sound
