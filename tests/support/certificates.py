"""Certificates made for a test, for `localhost` unless another name is said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


def pair(
    directory: Path,
    name: str = "tls",
    *,
    passphrase: bytes = b"",
    host: str = "localhost",
    begins: timedelta = timedelta(days=-2),
    ends: timedelta = timedelta(days=1),
) -> tuple[Path, Path]:
    """Files with a certificate for `host` that signs itself, and with its key. It holds from `begins` to `ends`, from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(who, who, key.public_key(), 1, now + begins, now + ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    certificate, secret = directory / f"{name}.crt", directory / f"{name}.key"
    certificate.write_bytes(made.public_bytes(_PEM))
    secret.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption))
    return certificate, secret
