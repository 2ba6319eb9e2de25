"""Public keys from PEM text or files, and the key pair of a development run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from kernel.config.reading import Unreadable, contents
from kernel.identity.keys import MAX_TRIED, Key, KeyConfigError, PublicKey, public_key

# RFC 7468 section 2: text outside the encapsulation boundaries is explanatory; we read `kid: NAME` in it.
_BLOCK = re.compile(
    r"(?P<before>[^-]*)-----BEGIN (?P<label>[A-Z0-9 ]+)-----.*?-----END (?P=label)-----", re.DOTALL
)
_KID = re.compile(r"^\s*kid:\s*(\S+)\s*$", re.MULTILINE)
_LABELS = ("PUBLIC KEY", "RSA PUBLIC KEY")
_MAX_FILE_BYTES = 65536


def load_public_keys(
    value: str, alg: str, base: Path | None = None, *, service: bool = False
) -> tuple[Key, ...]:
    """The keys of a `JWT_PUBLIC_KEY` value (`service`: of `JWT_SERVICE_PUBLIC_KEY`), all for `alg`. Raises `KeyConfigError`.

    The value is PEM text of one or more keys (line feeds may be written `\\n`), or files separated by commas, each
    `[kid=]path` relative to `base`. In PEM text and files a line `kid: NAME` names the key that follows.
    """
    keys: list[Key] = []
    if "-----BEGIN" in value:
        keys.extend(_from_text(value.replace("\\n", "\n"), alg, None, service))
    else:
        for path, kid in _files(value, base):
            keys.extend(_from_text(_text(path), alg, kid, service))
    unnamed = sum(key.kid is None for key in keys)
    if unnamed > MAX_TRIED:
        raise KeyConfigError(
            f"{unnamed} keys have no kid, and a token is tried with {MAX_TRIED} at most: name them"
        )
    return tuple(keys)


def inlined(value: str, base: Path | None = None) -> str:
    """The PEM text that a `JWT_PUBLIC_KEY` value stands for: what its files hold now. Raises `KeyConfigError`."""
    if "-----BEGIN" in value:
        return value
    blocks: list[str] = []
    for path, kid in _files(value, base):
        for block in _BLOCK.finditer(_text(path)):
            pem = block[0][len(block["before"]) :]
            named = _KID.search(block["before"])
            name = named[1] if named else kid
            blocks.append(f"kid: {name}\n{pem}\n" if name else f"{pem}\n")
    return "".join(blocks)


def _files(value: str, base: Path | None) -> Iterator[tuple[Path, str | None]]:
    """Each file of a `JWT_PUBLIC_KEY` value, and the name it gives its keys."""
    for entry in value.split(","):
        name, separator, path = entry.strip().rpartition("=")
        yield (base or Path()) / path, name if separator else None


def _text(path: Path) -> str:
    try:
        return contents(path, _MAX_FILE_BYTES).decode("ascii", "replace")
    except Unreadable as why:
        raise KeyConfigError(f"neither PEM text nor a file of keys: the file {why}") from None


def _from_text(text: str, alg: str, kid: str | None, service: bool) -> tuple[Key, ...]:
    keys: list[Key] = []
    for block in _BLOCK.finditer(text):
        if "PRIVATE" in block["label"]:
            raise KeyConfigError("this is a private key: configure its public half only")
        if block["label"] not in _LABELS:
            raise KeyConfigError(f"a PEM block 'PUBLIC KEY' is needed, not {block['label']!r}")
        named = _KID.search(block["before"])
        pem = block[0][len(block["before"]) :]
        try:
            material = serialization.load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            raise KeyConfigError("the PEM text cannot be decoded") from None
        name = named[1] if named else kid
        keys.append(public_key(alg, cast("PublicKey", material), kid=name, service=service))
    if not keys:
        raise KeyConfigError("no PEM block found")
    return tuple(keys)


def generate_pair(bits: int = 2048) -> tuple[str, str]:
    """A new RSA pair as PEM text (private, public), for a development run."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return (
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        private.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
    )
