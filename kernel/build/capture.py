"""Assembles what captures requests, where that is on."""

from __future__ import annotations

from pathlib import Path

from kernel.capture.entry import Encoder
from kernel.capture.writing import Capture, file_key
from kernel.config import Settings
from kernel.telemetry.log import Log


def make_capture(settings: Settings, log: Log, run_dir: Path) -> Capture | None:
    """None without CAPTURE_FILE: no route has anything of it then."""
    if settings.capture_file is None:
        return None
    body_bytes = settings.capture_body_bytes if settings.capture_bodies else 0
    encoder = Encoder(
        file_key(run_dir) if settings.capture_redact else None,
        anonymize=settings.log_anonymize,
        body_bytes=body_bytes,
    )
    return Capture(
        settings.capture_file, encoder, log, max_bytes=settings.capture_max_bytes, body_bytes=body_bytes
    )
