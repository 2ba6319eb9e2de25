"""What may stand beside a service: a canary that answers a share of its requests, a mirror that gets copies of some."""

from __future__ import annotations

from msgspec import Struct

# What a client's share goes by.
BY_USER, BY_TENANT = "user", "tenant"


class Canary(Struct, frozen=True):
    """`percent` (two decimals count) of the users or tenants are answered by `urls`, and who asks for it by `header`."""

    urls: tuple[str, ...]
    percent: float
    sticky: str = BY_USER
    # Lower-case name of the header that decides before the share does; empty: there is none.
    header: str = ""
    # Its value that chooses the canary; empty: `always` does, and `never` chooses the service.
    value: str = ""

    @property
    def text(self) -> str:
        """In words."""
        by = f"{self.percent:g} % of {self.sticky}s"
        if not self.header:
            return by
        return f"{by}, or {self.header}: {self.value}" if self.value else f"{by}, or as {self.header} says"


class Mirror(Struct, frozen=True):
    """Of the requests with `methods`, `percent` are sent to `urls` as well. `timeout`: seconds for all of such a copy."""

    urls: tuple[str, ...]
    percent: float
    methods: frozenset[str] = frozenset({"GET", "HEAD"})
    timeout: float = 5.0

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.percent:g} % of {' '.join(sorted(self.methods))}"
