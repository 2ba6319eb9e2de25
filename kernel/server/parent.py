"""`gateway run`: the parent process. It owns the run directory, the embedded store and granian's workers.

On Linux the workers are forked from a parent that has everything imported and no thread of its own: they start in
milliseconds and share its memory. Elsewhere they are started anew, as is the custom there, in a second.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kernel import __version__
from kernel.app import COMPILED
from kernel.config import Settings
from kernel.http.addresses import in_url
from kernel.identity.keys import KeyConfigError
from kernel.identity.pem import generate_pair, inlined
from kernel.server.certificates import CertificateError, Certificates
from kernel.server.embedded_store import EmbeddedStore, EmbeddedStoreError
from kernel.server.granian import server_options
from kernel.server.listening import CannotListen, claim
from kernel.server.reload import Reload
from kernel.server.run_directory import NoDirectory, make_directory
from kernel.server.signals import hold_in_workers, ignore_stops, stop_cleanly
from kernel.server.supervisor import Supervisor
from kernel.server.terminal import say
from kernel.server.worker import Loader
from kernel.server.worker_stderr import WorkerStderr
from kernel.telemetry.lines import JsonLines

# A worker ends what is in flight when the grace is over; this only catches one that hangs.
_KILL_MARGIN_SECONDS = 2
# Store, logs, listening sockets, modules being loaded.
_SPARE_FILES = 256


class _DevelopmentKeys:
    """Keys for a laptop: made anew at each start, said, and never used outside ENVIRONMENT=dev."""

    def __init__(self, settings: Settings, run_dir: Path) -> None:
        self._secret = self._public = None
        if settings.environment != "dev":
            return
        self._secret = secrets.token_urlsafe(48)
        if not settings.jwt_public_key and not settings.jwt_jwks_url:
            private, self._public = generate_pair()
            path = run_dir / "dev-private-key.pem"
            path.touch(mode=0o600)
            path.write_text(private)
            say(f"JWT_PUBLIC_KEY is not set: made a key pair for this run; its private half is {path}")

    def complete(self, settings: Settings) -> Settings:
        """`settings` with the keys that are not set, and those in files read: no worker reads a file half written.

        Raises:
            KeyConfigError: the files have changed since they were validated.
        """
        changes: dict[str, Any] = {}
        for name in ("jwt_public_key", "jwt_service_public_key"):
            given = getattr(settings, name)
            if given is not None:
                changes[name] = inlined(given)
        if self._secret and not settings.jwt_secret_keys:
            changes["jwt_secret_keys"] = (self._secret,)
        if self._public and not settings.jwt_public_key and not settings.jwt_jwks_url:
            changes |= {"jwt_public_key": self._public, "provisional_keys": True}
        return msgspec.structs.replace(settings, **changes)


def _store_url(settings: Settings, resources: contextlib.ExitStack) -> str:
    """The store's URL; without one configured (dev only), that of an embedded server."""
    if settings.redis_url:
        return settings.redis_url
    store = resources.enter_context(EmbeddedStore())
    say(f"REDIS_HOST is not set: embedded Valkey on {store.socket_path}")
    return store.url


def _connections(settings: Settings) -> int:
    """MAX_CONNECTIONS, or what the limit of open files has room for beside the connections to services.

    With no descriptor left, accepting fails again and again and takes a whole core; a worker that knows its limit stops
    accepting before, and the backlog holds who comes then.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # granian raises the soft limit to the hard one
    replicas = sum(map(len, settings.services.values()))
    room = limit - min(settings.upstream_max_connections * replicas + _SPARE_FILES, limit // 2)
    if limit == resource.RLIM_INFINITY or room >= settings.max_connections:
        return settings.max_connections
    say(
        f"open files are limited to {limit}: a worker takes {room} connections, not the {settings.max_connections} of "
        "MAX_CONNECTIONS; raise the limit (`ulimit -Hn`, LimitNOFILE= in systemd, --ulimit nofile= in Docker)"
    )
    return room


def run(settings: Settings, read: Callable[[], Settings | None]) -> int:
    """Serve until SIGINT or SIGTERM; on SIGHUP `read` the settings again. Returns the exit code."""
    try:
        _serve(settings, read)
    except (CannotListen, NoDirectory, EmbeddedStoreError, KeyConfigError, CertificateError) as error:
        say(str(error))
        return 1
    return 0


def _serve(settings: Settings, read: Callable[[], Settings | None]) -> None:
    stop_cleanly()
    if sys.platform.startswith("linux") and multiprocessing.get_start_method(allow_none=True) is None:
        multiprocessing.set_start_method("fork")  # the default until Python 3.13
    if claim(settings.host, settings.port):
        if settings.environment == "dev":
            raise CannotListen(
                f"another gateway listens on port {settings.port}, and would get some of the connections. "
                "Stop it, or set another PORT."
            )
        say(f"others listen on port {settings.port}, too, and share it: connections go to any of them")
    with contextlib.ExitStack() as resources:
        run_dir = make_directory("bakery-gateway-")
        resources.callback(shutil.rmtree, run_dir, ignore_errors=True)
        os.environ["GATEWAY_RUN_DIR"] = str(run_dir)
        keys = _DevelopmentKeys(settings, run_dir)
        certificates = Certificates(run_dir)
        settings = certificates.kept(keys.complete(settings), settings)
        store_url = _store_url(settings, resources)
        kill_after = settings.shutdown_grace_seconds + _KILL_MARGIN_SECONDS
        loader = Loader(settings, store_url, run_dir, os.getpid())

        def complete(found: Settings) -> Settings:
            return certificates.kept(keys.complete(found), loader.settings)

        server = Supervisor(
            loader,
            Reload(loader, read, complete, say),
            settings.drain_seconds,
            kill_after,
            server_options(settings, _connections(settings)),
        )
        build = __version__ + (", compiled" if COMPILED else "")
        scheme = "http" if settings.tls_cert_file is None else "https"
        say(f"version {build}, {settings.environment}, {scheme}://{in_url(settings.host)}:{settings.port}")
        # PERF: what is loaded now is shared by all workers and never looked at by their collectors again.
        gc.collect()
        gc.freeze()
        hold_in_workers()
        if not settings.structlog_pretty_print and multiprocessing.get_start_method() == "fork":
            loader.stderr = WorkerStderr(JsonLines())
            resources.callback(loader.stderr.close)
        server.run()
        ignore_stops()
