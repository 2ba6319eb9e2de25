"""`gateway run`."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress

from kernel.cli.output import print_errors
from kernel.cli.settings import obtain
from kernel.config import Settings


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Serve until SIGINT or SIGTERM; then end what is in flight within SHUTDOWN_GRACE_SECONDS, and exit 0. After SIGTERM, but not
after Ctrl-C, it first goes on accepting for DRAIN_SECONDS with readiness false, until balancers have noticed; a second
SIGTERM ends that wait.

SIGHUP reads .env, gateway.toml and the key and certificate files again: new workers take over one after the other, and
the old ones end what they have in flight. A configuration with errors, or one that no worker comes to serve with, is told
and changes nothing.

With ENVIRONMENT=dev (the default) a missing REDIS_HOST starts an embedded store and a missing JWT_PUBLIC_KEY makes a
key pair for this run. In staging and prod the store must be named, and without a key the auth service is asked about each
new token. Exits 1 when the configuration is not valid."""
    parser.epilog = """\
examples:
  gateway run
  PORT=9000 AUTH_SERVICE_URL=http://localhost:8001 gateway run
  ENVIRONMENT=prod REDIS_HOST=redis JWT_PUBLIC_KEY=/run/keys/jwt_public.pem WORKERS=auto gateway run
"""


def run(args: argparse.Namespace) -> int:
    from kernel.server.init import run_under_init  # noqa: PLC0415

    return run_under_init(_run)


def _run() -> int:
    settings = _read()
    if settings is None:
        return 1
    from kernel.server import parent  # noqa: PLC0415

    return parent.run(settings, _read)


def _read() -> Settings | None:
    """The settings; what is wrong or looks wrong has been printed."""
    loaded = obtain()
    if loaded is None:
        return None
    with suppress(OSError):  # at a reload, there may be nobody to read it
        print_errors((), loaded.warnings)
        sys.stderr.flush()
    return loaded.settings
