"""TLS towards services: the context that judges their certificates and shows ours, and why a handshake failed, in words."""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
# OpenSSL's own word for it, and what an operator can do something with.
_REASONS = {
    "WRONG_VERSION_NUMBER": "no TLS is spoken there",
    "HTTP_REQUEST": "no TLS is spoken there",
    "PACKET_LENGTH_TOO_LONG": "no TLS is spoken there",
    "RECORD_LAYER_FAILURE": "no TLS is spoken there",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it demands a client certificate",
    "UNSUPPORTED_PROTOCOL": "it offers no version of TLS from 1.2 on",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it offers no version of TLS from 1.2 on",
}


class ClientContext(ssl.SSLContext):
    """A context whose connections go on with the last session of the same host name (RFC 8446 section 2.2).

    Event loops have no argument for a session, but all make their connections by `wrap_bio`: it is the place to give one.
    The last connection of each host is kept for it, since a TLS 1.3 ticket comes some time after the handshake.

    SECURITY: a session stands for a certificate that this context has accepted for this name; a failed handshake leaves none.
    """

    _last: dict[str, ssl.SSLObject]
    _sessions: dict[str, ssl.SSLSession]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        name = str(server_hostname)
        last = self._last.get(name)
        if last is not None and last.version() is not None:  # its handshake is done
            got = last.session
            if got is not None and (got.has_ticket or got.id):
                self._sessions[name] = got
        session = session or self._sessions.get(name)
        connection = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        self._last[name] = connection
        return connection


def client_context(ca: bytes = b"", identity: bytes = b"") -> ClientContext:
    """A context for requests to services.

    Args:
        ca: PEM certificates of those who are trusted; the system's authorities when there are none.
        identity: PEM of our own certificate (chain) and its private key, in any order; none: no client certificate.

    Raises:
        ssl.SSLError: they cannot be used, or the key is not the certificate's.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)  # with names checked, TLS 1.2 at least
    context._last, context._sessions = {}, {}
    if ca:
        pem = b"\n".join(_CERTIFICATE.findall(ca)).decode("ascii")
        context.load_verify_locations(cadata=pem)
        # Who is named is trusted, be it no root: an intermediate, or the service's own certificate.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        context.load_default_certs()
    if identity:
        with _as_file(identity) as name:
            context.load_cert_chain(name, password=_no_passphrase)
    return context


def has_certificate(pem: bytes) -> bool:
    """Whether there is one in it."""
    return _CERTIFICATE.search(pem) is not None


def explain(error: ssl.SSLError) -> str:
    """Why a handshake failed. For operators: names may be in it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message.rstrip('.')}"
    reason = getattr(error, "reason", None) or ""  # errors of its own making have none
    said = _REASONS.get(reason)
    if said:
        return said
    alert = re.fullmatch(r"(?:SSLV3|TLSV1|TLSV13)_ALERT_(\w+)", reason)
    words = (alert[1] if alert else reason).lower().replace("_", " ")
    return f"it refused: {words}" if alert else words or "the connection was closed in the handshake"


def _no_passphrase() -> str:
    """Nobody is there to type one: an encrypted key is an error, not a question on the terminal."""
    return ""


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """The name of a file with `content`, which the ssl module insists on. SECURITY: in memory where the system can."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("pem", os.MFD_CLOEXEC)
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{fd}"
    else:
        with tempfile.NamedTemporaryFile() as named:
            named.write(content)
            named.flush()
            yield named.name
