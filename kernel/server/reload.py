"""SIGHUP: the configuration is read again, and workers with the new one take over from the old, one after the other.

A configuration with errors changes nothing. What the parent process has set up already stays as it was until a restart,
and that is said: nothing is ignored in silence.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from kernel.config import Settings
from kernel.config.variables import VARIABLES
from kernel.server.worker import Loader

# Other files may be named, but what was served without TLS needs a restart to be served with it.
_TLS = ("tls_cert_file", "tls_key_file")
# The listening socket, the server's own limits, the store it may have started, its log.
AT_START = (
    "environment",
    "host",
    "port",
    "workers",
    "http2",
    "header_timeout_seconds",
    "client_keepalive_seconds",
    "max_header_bytes",
    "max_connections",
    "drain_seconds",
    "shutdown_grace_seconds",
    "tls_min_version",
    "redis_url",
    "structlog_pretty_print",
)


class Reload:
    """Called when the server has been asked to reload, before it makes new workers; False when it has to make none.

    Args:
        loader: makes the workers; its settings are replaced.
        read: reads the configuration; None after it has said what is wrong.
        made: completes settings with what was made for this run (development keys).
        say: tells the operator.
    """

    def __init__(
        self,
        loader: Loader,
        read: Callable[[], Settings | None],
        made: Callable[[Settings], Settings],
        say: Callable[[str], None],
    ) -> None:
        self._loader = loader
        self._read = read
        self._made = made
        self._say = say
        self._before = loader.settings

    def __call__(self) -> bool:
        try:
            found = self._read()
            made = None if found is None else self._made(found)
        except Exception as error:  # it would end the parent, and all workers with it
            self._say(f"SIGHUP: the configuration cannot be read: {type(error).__name__}: {error}")
            made = None
        if made is None:
            self._say("SIGHUP: the workers go on with the configuration they have")
            return False
        self._before = self._loader.settings
        settings, waiting = settled(self._before, made)
        for name in waiting:
            self._say(f"SIGHUP: {name} has changed, which takes a restart: it stays as it was")
        self._loader.settings = settings
        self._say("SIGHUP: the workers are replaced with the configuration as it is now")
        return True

    def undo(self) -> None:
        """Workers to come get the configuration that was in use before."""
        self._loader.settings = self._before


def settled(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """`new`, but as `old` in what only a restart changes; and the variables of which that had to be said."""
    waiting = [name for name in AT_START if getattr(old, name) != getattr(new, name)]
    if (old.tls_cert_file is None) != (new.tls_cert_file is None):
        waiting += _TLS
    names = {variable.attribute: variable.name for variable in VARIABLES}
    kept = replace(new, **{name: getattr(old, name) for name in waiting})
    return kept, [names[name] for name in waiting]
