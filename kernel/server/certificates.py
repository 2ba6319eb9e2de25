"""The certificate that clients are shown: what was validated is what every worker loads, whatever becomes of its files since.

They are renewed one after the other, by others: a worker that starts in between would read halves of two pairs.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from msgspec.structs import replace

from kernel.config import Settings
from kernel.config.reading import Unreadable, contents

_MAX_BYTES = 1024 * 1024


class CertificateError(RuntimeError):
    """The files are not what they were when they were validated; the message says how."""


class Certificates:
    """Copies in the run directory, 0600."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._count = 0

    def kept(self, settings: Settings, current: Settings) -> Settings:
        """`settings` with copies in place of its files; all other copies but those of `current` are removed.

        Raises:
            CertificateError: they cannot be read any more, or do not fit each other.
        """
        certificate, key = settings.tls_cert_file, settings.tls_key_file
        if certificate is None or key is None:
            return settings
        self._count += 1
        copies = [self._run_dir / f"tls-{self._count}.{kind}" for kind in ("crt", "key")]
        try:
            for source, copy in zip((certificate, key), copies, strict=True):
                _write(copy, contents(source, _MAX_BYTES))
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(str(copies[0]), str(copies[1]))
        except (Unreadable, OSError) as error:  # SSLError is one
            for copy in copies:
                copy.unlink(missing_ok=True)
            raise CertificateError(
                f"TLS_CERT_FILE and TLS_KEY_FILE have changed meanwhile, and do not fit: {error}"
            ) from None
        for old in self._run_dir.glob("tls-*"):
            if old not in {*copies, current.tls_cert_file, current.tls_key_file}:
                old.unlink(missing_ok=True)
        return replace(settings, tls_cert_file=copies[0], tls_key_file=copies[1])


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
