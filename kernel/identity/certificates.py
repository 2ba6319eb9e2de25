"""Certificates: from when to when those hold that clients are shown. Here, since cryptography is this room's."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from cryptography import x509

# Renewal comes 30 days before the end with most authorities that do it by themselves; this is when it has failed for long.
_SOON_SECONDS = 14 * 86400.0


def validity(chain: bytes) -> tuple[float, float]:
    """Unix times from and until which all certificates of a PEM file hold. Raises ValueError: none, or a broken one."""
    certificates = x509.load_pem_x509_certificates(chain)
    return (
        max(each.not_valid_before_utc.timestamp() for each in certificates),
        min(each.not_valid_after_utc.timestamp() for each in certificates),
    )


def doubt(chain: bytes, now: float | None = None) -> str:
    """What is wrong with the time of a PEM file's certificates, or soon will be; "" when nothing is."""
    now = time.time() if now is None else now
    try:
        begin, end = validity(chain)
    except ValueError:
        return ""  # others say so
    if end <= now:
        return f"the certificate expired on {_date(end)}: clients refuse it"
    if begin > now:
        return f"the certificate is not valid before {_date(begin)}: clients refuse it"
    if end - now < _SOON_SECONDS:
        days = int((end - now) / 86400)
        return f"the certificate expires on {_date(end)}, in {days} day{'s' * (days != 1)}"
    return ""


def _date(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M UTC")
