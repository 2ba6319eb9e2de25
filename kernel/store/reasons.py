"""Why a store is no good: what its errors mean, in an operator's words."""

from __future__ import annotations

import re

from redis.exceptions import AuthenticationError, BusyLoadingError, ClusterDownError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from kernel.store.errors import StoreDown, StoreRefused

# Whoever answers so cannot do what the gateway needs, whatever was asked. A replica in a cluster never says READONLY,
# it sends the client on.
LOST = {
    "READONLY": "read-only",
    "LOADING": "loading",
    "CLUSTERDOWN": "cluster down",
    "MASTERDOWN": "master down",
    "NOAUTH": "password refused",
    "WRONGPASS": "password refused",
    "BUSY": "busy with a script",
    "UNBLOCKED": "read-only",
}
# Whoever answers so may be well otherwise: one command was too much, or is not permitted. A probe tells.
DOUBTFUL = {
    "OOM": "out of memory",
    "NOPERM": "not permitted",
    "MISCONF": "cannot save its data",
    "NOREPLICAS": "too few replicas",
}
_REASONS = LOST | DOUBTFUL
# What Redis before 7.0 makes of an error inside a script: "ERR Error running script (...): @user_script: 1: -READONLY You".
_INNER = re.compile(r"^(?:ERR )?Error running script .*: -([A-Z]+) ")
_CODE = re.compile(r"^([A-Z]+)(?: |$)")


def code(error: Exception) -> str:
    """The code of a server's error, as in `-CODE text`; "" for any other failure."""
    known = getattr(error, "status_code", None)
    if known and known != "ERR":
        return str(known)
    if isinstance(error, AuthenticationError):
        return "WRONGPASS"
    if isinstance(error, BusyLoadingError):
        return "LOADING"
    if isinstance(error, ClusterDownError):
        return "CLUSTERDOWN"
    if not isinstance(error, RedisError | StoreRefused):
        return ""
    words = str(error)
    found = _INNER.match(words) or _CODE.match(words)
    return found[1] if found is not None else ""


def text(error: Exception) -> str:
    """The server's own words, its code included: redis-py takes some of them off."""
    words = str(error) or type(error).__name__
    known = getattr(error, "status_code", None)
    return f"{known} {words}" if known and known != "ERR" and not words.startswith(known) else words


def reason(error: Exception) -> str:
    """A few words that are the same each time, then the detail: for the log and for who operates it."""
    detail = str(error)
    if isinstance(error, StoreDown):
        return detail or "not reachable"
    why = _REASONS.get(code(error))
    if why is None:
        if isinstance(error, TimeoutError | RedisTimeoutError):
            why = "no answer in time"
        elif isinstance(error, OSError | RedisError | StoreRefused):
            why = "not reachable"
        else:
            why = f"unexpected {type(error).__name__}"
    return f"{why}: {detail}" if detail else why
