"""Where a replica listens: http, https or a unix socket."""

from __future__ import annotations

from urllib.parse import urlsplit

from msgspec import Struct

from kernel.http.addresses import in_url


class Address(Struct, frozen=True):
    """`path` is a unix socket's, else empty; `authority` is the Host that requests name; `prefix` precedes every target."""

    host: str
    port: int
    tls: bool = False
    path: str = ""
    authority: str = ""

    @property
    def own(self) -> tuple[bytes, ...]:
        """The authorities it is known by, in lower case: as requests name it; with its port; without, if that may be."""
        shown = in_url(self.host).lower()
        forms = {self.authority.lower(), f"{shown}:{self.port}"}
        if self.port == (443 if self.tls else 80):
            forms.add(shown)
        return tuple(form.encode() for form in forms)


def parse(url: str) -> Address:
    """The address of a service URL (`http://`, `https://`, `unix:///path`), which the configuration has validated."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return Address("localhost", 0, path=parts.path, authority="localhost")
    tls = parts.scheme == "https"
    host = parts.hostname or ""
    port = parts.port or (443 if tls else 80)
    shown = in_url(host)
    return Address(host, port, tls, authority=shown if parts.port is None else f"{shown}:{port}")
