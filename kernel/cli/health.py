"""`gateway health`: what a container's or a service manager's health check runs."""

from __future__ import annotations

import argparse
import os
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ssl import CERT_NONE, SSLContext, create_default_context

from kernel.cli.settings import ENV_FILE
from kernel.config import Settings, dotenv

_SECONDS = 2.0
# What is bound when all addresses are: who connects must name one.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Ask the gateway that runs here, with the same environment and .env, whether it is alive: at HOST and PORT, over TLS when
TLS_CERT_FILE is set. Exits 0 when it answers 200 within two seconds, else 1. Nothing else of the configuration is looked
at: an error that waits in a file for the next reload makes no gateway unhealthy."""
    parser.epilog = """\
examples:
  gateway health
  gateway health --ready || echo 'not yet'
"""
    parser.add_argument(
        "--ready", action="store_true", help="ask whether it takes requests: not while it drains"
    )


def run(args: argparse.Namespace) -> int:
    given, usual = _given(), Settings()
    host, port = given.get("HOST", usual.host), given.get("PORT", str(usual.port))
    host = _ANY.get(host, host)
    secure = "TLS_CERT_FILE" in given
    path = "/health/ready" if args.ready else "/health/live"
    url = f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}{path}"
    try:
        connection = (
            HTTPSConnection(host, int(port), timeout=_SECONDS, context=_unverified())
            if secure
            else HTTPConnection(host, int(port), timeout=_SECONDS)
        )
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
    except (OSError, HTTPException, ValueError, OverflowError) as error:
        sys.stderr.write(f"gateway: no answer from {url}: {error}\n")
        return 1
    (sys.stdout if status == 200 else sys.stderr).write(f"gateway: {url} answers {status}\n")
    return int(status != 200)


def _given() -> dict[str, str]:
    """The variables as `gateway run` sees them, unchecked: the environment's before those of .env, empty ones unset."""
    try:
        merged, _ = dotenv.parse(ENV_FILE.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        merged = {}
    return {name: value.strip() for name, value in {**merged, **os.environ}.items() if value.strip()}


def _unverified() -> SSLContext:
    # SECURITY: the certificate names the public host, not this address; nothing secret is sent or believed.
    context = create_default_context()
    context.check_hostname = False
    context.verify_mode = CERT_NONE
    return context
