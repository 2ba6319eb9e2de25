"""Variables that are probably meant for the gateway, but that it does not read: misspelt ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from kernel.config.errors import ConfigError
from kernel.config.variables import VARIABLES
from kernel.routing.beside import CANARY, MIRROR, beside
from kernel.routing.catalog import V1, Service, destinations

# Near enough to be a slip of the fingers: RATE_LIMIT_REQUEST is 0.97 near to RATE_LIMIT_REQUESTS, while
# SALES_SERVICE_PORT, which Kubernetes sets, is 0.8 near to SALES_SERVICE_URL.
_NEAR = 0.88
# Of letters added, dropped, changed or swapped, in a name that is long enough to be nobody else's.
_SLIPS = 2
# OpenSSL's own, two slips from ours.
_OTHERS = frozenset({"SSL_CERT_FILE"})
_LONG = 8


def strays(given: Iterable[str], catalog: tuple[Service, ...]) -> Iterator[ConfigError]:
    """A warning for each name in `given` that is close to one of ours but none of ours."""
    known = dict.fromkeys([*(v.name for v in VARIABLES), *(service.env for service in destinations(catalog))])
    shared = {
        version.env: f"[services.{service.name}.versions.{version.name}]"
        for service in catalog
        for version in service.versions
        if version.name != V1 and version.env not in known
    }
    known |= {each.env: None for each in beside(catalog)}
    tables = {
        f"{service.env}_{kind.upper()}": f"[services.{service.name}.{kind}]"
        for service in catalog
        for kind in (CANARY, MIRROR)
    }
    secret_files = {f"{variable.name}_FILE" for variable in VARIABLES if variable.secret}
    # What names begin with, such as RATE_LIMIT, and the first of them.
    begins = {
        "_".join(words[:count]): name
        for name in reversed(known)
        for words in (name.split("_"),)
        for count in range(2, len(words))
    }
    for name in sorted(set(given) - known.keys() - secret_files - _OTHERS):
        upper = name.upper()
        if name in shared:
            yield ConfigError(name, f"is not read: {shared[name]} has no url, which it would override")
            continue
        if name in tables:
            yield ConfigError(name, f"is not read: gateway.toml has no {tables[name]}")
            continue
        near = did_you_mean(upper, known) or _slipped(upper, known, _SLIPS)
        if not near:
            near = begins.get(_slipped(upper, begins, 1), "")
        plain = upper.removesuffix("_FILE")
        if plain != upper and plain in known:
            yield ConfigError(name, f"is not read: only secrets come from files; set {plain}")
        elif near:
            yield ConfigError(name, f"is not a variable of the gateway; did you mean {near}?")
        elif name.endswith("_SERVICE_URL"):
            yield ConfigError(name, "names no service of the catalogue; services are added in gateway.toml")


def did_you_mean(name: str, known: Iterable[str], nearness: float = _NEAR) -> str:
    """The nearest of `known`, or an empty string when none is near."""
    return next(iter(get_close_matches(name, sorted(known), 1, nearness)), "")


def _slipped(name: str, known: Iterable[str], most: int) -> str:
    """The one of `known` that is the fewest slips away, `most` at most; or an empty string."""
    if len(name) < _LONG:
        return ""
    found = [
        (slips, each)
        for each in known
        if abs(len(each) - len(name)) <= most and (slips := _distance(name, each, most)) <= most
    ]
    return min(found, default=(0, ""))[1]


def _distance(one: str, other: str, most: int) -> int:
    """Damerau and Levenshtein's (restricted): letters to add, drop, change or swap; more than `most` is `most` + 1."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, 1):
        earlier, before, row = before, row, [place]
        for at, against in enumerate(other, 1):
            if letter == against:
                cost = before[at - 1]
            else:
                cost = 1 + min(before[at - 1], before[at], row[at - 1])
                if at > 1 and place > 1 and letter == other[at - 2] and one[place - 2] == against:
                    cost = min(cost, 1 + earlier[at - 2])
            row.append(cost)
        if min(row) > most:
            return most + 1
    return row[-1]
