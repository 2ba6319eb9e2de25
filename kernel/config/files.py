"""Rules on files that variables name: what cannot be used later is found before the start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from kernel.config.errors import ConfigError
from kernel.config.reading import Unreadable, contents
from kernel.config.settings import Settings

_MAX_PEM_FILE = 1024 * 1024
_MAX_NAME = 245
_EXAMPLES = {"TLS_CERT_FILE": "/run/tls/tls.crt", "TLS_KEY_FILE": "/run/tls/tls.key"}


def tls_needs_both(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    pair = {"TLS_CERT_FILE": settings.tls_cert_file, "TLS_KEY_FILE": settings.tls_key_file}
    found: list[bytes] = []
    for (name, path), other in zip(pair.items(), reversed(pair), strict=True):
        if path is not None:
            try:
                found.append(contents(path, _MAX_PEM_FILE))
            except Unreadable as why:
                yield ConfigError(name, f"the file {why}")
        elif pair[other] is not None:
            yield ConfigError(name, f"is needed beside {other}", _EXAMPLES[name])
    certificate, key = pair.values()
    if certificate is not None and key is not None and len(found) == len(pair):
        yield from _fit(certificate, key, *found)


def _fit(certificate: Path, key: Path, chain: bytes, secret: bytes) -> Iterator[ConfigError]:
    """Whether the files hold a certificate and its key, by what serves HTTPS with them."""
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        yield ConfigError("TLS_CERT_FILE", "the file holds no PEM certificate")
    if b"PRIVATE KEY-----" not in secret:
        yield ConfigError("TLS_KEY_FILE", "the file holds no PEM private key")
    elif b"ENCRYPTED" in secret:
        # Nobody is there to type a passphrase when a gateway starts.
        yield ConfigError(
            "TLS_KEY_FILE",
            "the key is encrypted: store it without a passphrase, readable to the gateway only",
        )
    elif b"-----BEGIN CERTIFICATE-----" in chain:
        import ssl  # noqa: PLC0415  # 10 ms that most starts need not spend

        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        except OSError as error:  # SSLError is one; or the files are no longer there
            reason = (getattr(error, "reason", None) or "it cannot be read").lower().replace("_", " ")
            yield ConfigError(
                "TLS_KEY_FILE", f"is not the key of the certificate in TLS_CERT_FILE ({reason})"
            )


def audit_file_can_be_written(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    path = settings.audit_log_file
    if path is not None:
        problem = _unwritable(path) or _writers_unwritable(path)
        if problem:
            yield ConfigError("AUDIT_LOG_FILE", problem, "/var/log/gateway/audit.jsonl")


def capture_file_can_be_written(settings: Settings, given: frozenset[str]) -> Iterator[ConfigError]:
    path = settings.capture_file
    if path is None:
        return
    problem = _unwritable(path)
    if path.suffix.lower() == ".har":
        problem = "holds one entry a line, which is no HAR: `gateway capture FILE --har OUT` makes one of it"
    elif path == settings.audit_log_file:
        problem = "is AUDIT_LOG_FILE: name another file"
    if problem:
        yield ConfigError("CAPTURE_FILE", problem, "/var/lib/gateway/capture.ndjson")
    if not settings.capture_redact and settings.environment == "prod":
        # SECURITY: a file of tokens is what the redaction is there against.
        yield ConfigError("CAPTURE_REDACT", "is false in prod: secrets would be written to a file", "true")


def _unwritable(path: Path) -> str:
    """Why a file that is rotated cannot be written to; or an empty string."""
    # Rotation needs the directory: it renames, and keeps a lock file there.
    directory = path.absolute().parent
    # The functions of os.path take what they may not look at as absent; pathlib's raise.
    if not os.path.isdir(directory):
        return f"there is no directory {directory}: create it, writable to the gateway"
    if len(os.fsencode(path.name)) > _MAX_NAME:
        return f"the file's name is too long: {_MAX_NAME} bytes leave room for those of rotated files"
    if os.path.isdir(path):
        return "is a directory: name a file in it"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"the directory {directory} cannot be written to: files are rotated there"
    if os.path.exists(path) and not (os.path.isfile(path) and os.access(path, os.W_OK)):
        return "the file cannot be written to"
    lock = f"{path}.lock"
    if os.path.exists(lock) and not (os.path.isfile(lock) and os.access(lock, os.R_OK | os.W_OK)):
        return f"the file {lock} cannot be written to"
    return ""


def _writers_unwritable(path: Path) -> str:
    """The same of the directory beside the audit file (see telemetry/auditflush.py)."""
    writers = f"{path}.writers"
    if os.path.exists(writers) and not (os.path.isdir(writers) and os.access(writers, os.W_OK | os.X_OK)):
        return f"the directory {writers} cannot be written to"
    return ""
