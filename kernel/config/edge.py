"""The settings of the gateway's edge: which pages may call, through which proxies, by which names and from where."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated

from kernel.config.declare import variable as _var
from kernel.config.process import ProcessSettings
from kernel.config.urls import HOST_PATTERN, ORIGIN
from kernel.config.values import FIELD_NAME, FLAG, NETWORK, integer, listed
from kernel.http.addresses import Network

_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "::1/128", "fc00::/7")


class EdgeSettings(ProcessSettings, frozen=True, kw_only=True):
    """The second part of `Settings`."""

    cors_origins: Annotated[
        tuple[str, ...],
        _var(
            listed(ORIGIN),
            "Pages that may call: exact origins, `https://*.example.com`, or `*` without credentials.",
            "https://app.example.com,https://*.bakery.example",
            group="Edge",
        ),
    ] = ()
    cors_allow_credentials: Annotated[
        bool, _var(FLAG, "Let pages send cookies and read the answers.", "true")
    ] = True
    cors_expose_headers: Annotated[
        tuple[str, ...],
        _var(
            listed(FIELD_NAME),
            "Headers of answers that pages may read, beside the usual ones.",
            "x-page-count",
        ),
    ] = ()
    cors_max_age: Annotated[
        int, _var(integer(0, 86400), "Seconds for which browsers keep what a preflight said.", "7200")
    ] = 600
    trusted_proxies: Annotated[
        tuple[Network, ...],
        _var(
            listed(NETWORK),
            "Whose `X-Forwarded-*`, `Forwarded` and `x-request-id` headers are believed.",
            "10.0.0.0/8,2001:db8::/32",
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        _var(listed(HOST_PATTERN), "Host names served; unset: any.", "api.example.com,*.api.example.com"),
    ] = ()
    admin_allow: Annotated[
        tuple[Network, ...],
        _var(
            listed(NETWORK),
            "Who may read `/metrics` and the like in staging and prod.",
            "10.20.0.0/16",
            default="private and loopback networks",
        ),
    ] = tuple(ip_network(each) for each in _PRIVATE)
    ip_allow: Annotated[
        tuple[Network, ...],
        _var(
            listed(NETWORK),
            "Only these networks may call; unset: any. Probes are not judged.",
            "203.0.113.0/24",
        ),
    ] = ()
    ip_deny: Annotated[
        tuple[Network, ...], _var(listed(NETWORK), "Networks that may not call.", "198.51.100.0/24")
    ] = ()
    https_only: Annotated[
        bool,
        _var(FLAG, "Redirect or refuse plain HTTP.", "true", default="`true` in `prod`, else `false`"),
    ] = False
