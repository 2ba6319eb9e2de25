"""Variables that are probably meant for the gateway, but that it does not read: misspelt ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from kernel.config.errors import ConfigError
from kernel.config.variables import VARIABLES
from kernel.routing.catalog import Service

# Near enough to be a slip of the fingers: RATE_LIMIT_REQUEST is 0.97 near to RATE_LIMIT_REQUESTS, while
# SALES_SERVICE_PORT, which Kubernetes sets, is 0.8 near to SALES_SERVICE_URL.
_NEAR = 0.88


def strays(given: Iterable[str], catalog: tuple[Service, ...]) -> Iterator[ConfigError]:
    """A warning for each name in `given` that is close to one of ours but none of ours."""
    known = {variable.name for variable in VARIABLES} | {service.env for service in catalog}
    for name in sorted(set(given) - known):
        near = did_you_mean(name.upper(), known)
        if near:
            yield ConfigError(name, f"is not a variable of the gateway; did you mean {near}?")
        elif name.endswith("_SERVICE_URL"):
            yield ConfigError(name, "names no service of the catalogue; services are added in gateway.toml")


def did_you_mean(name: str, known: Iterable[str], nearness: float = _NEAR) -> str:
    """The nearest of `known`, or an empty string when none is near."""
    return next(iter(get_close_matches(name, sorted(known), 1, nearness)), "")
