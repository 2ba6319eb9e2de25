"""Client addresses: networks, trusted proxies and what their forwarded headers say."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# A client whose address a trusted proxy does not tell.
UNKNOWN = "unknown"
_MEMO_LIMIT = 4096
_MAPPED = 96  # the prefix of IPv4 addresses written as IPv6, ::ffff:0:0/96


def _plain(network: Network) -> Network:
    """`network`, as IPv4 when it is one written as IPv6: addresses are compared so."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED))
    return network


def in_url(host: str) -> str:
    """A host as a URL writes it: an IPv6 address in brackets (RFC 3986 section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


class Peers:
    """Which addresses lie in a list of networks; remembered, since one load balancer makes most connections."""

    __slots__ = ("_memo", "_networks")

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(_plain(network) for network in networks)
        self._memo: dict[str, bool] = {}

    def __contains__(self, address: str) -> bool:
        known = self._memo.get(address)
        if known is None:
            known = self._look(address)
            if len(self._memo) < _MEMO_LIMIT:
                self._memo[address] = known
        return known

    def _look(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._networks)


def forwarded_client(peer: str, chain: bytes, trusted: Peers) -> str:
    """The client's address: the right-most entry of X-Forwarded-For that no trusted proxy owns.

    SECURITY: read from the right, since everything left of the first untrusted hop was written by the client. What is no
    address there ("unknown", RFC 7239 section 6) makes the client `UNKNOWN`: it is not the proxy that hides it, whose
    address may be one that is let in.
    """
    client = peer
    for entry in reversed(chain.split(b",")):
        text = entry.strip().decode("latin-1")
        if not text:
            continue
        if text.startswith("["):  # [v6]:port
            text = text[1:].partition("]")[0]
        elif text.count(":") == 1:  # v4:port
            text = text.partition(":")[0]
        try:
            client = str(ipaddress.ip_address(text))
        except ValueError:
            return UNKNOWN
        if client not in trusted:
            return client
    return client


def forwarded_elements(value: bytes) -> tuple[bytes, bytes, bytes]:
    """(X-Forwarded-For chain, proto, host) told by a `Forwarded` header (RFC 7239), the last two by the nearest proxy."""
    chain: list[bytes] = []
    proto = host = b""
    for element in value.split(b","):
        for pair in element.split(b";"):
            name, _, raw = pair.strip().partition(b"=")
            text = raw.strip().strip(b'"')
            if name.lower() == b"for":
                chain.append(text)
            elif name.lower() == b"proto":
                proto = text
            elif name.lower() == b"host":
                host = text
    return b",".join(chain), proto, host
