"""Client addresses: networks, trusted proxies and what their forwarded headers say."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from kernel.primitives.memo import keep

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# A client whose address a trusted proxy does not tell.
UNKNOWN = "unknown"
_MEMO_LIMIT = 4096
# [v6], [v6]:port; v4, v4:port; v6. A port may be hidden behind a name (RFC 7239 section 6.3).
_NODE = re.compile(
    rb"\[([0-9A-Fa-f:.]+)\](?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
    rb"|([0-9.]+)(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
    rb"|([0-9A-Fa-f:.]+)"
).fullmatch
# Elements and pairs of a Forwarded header: commas and semicolons within quotes part nothing. SECURITY: what begins with a
# quote always matches, to the end if need be: what could fail there would be tried again from each byte.
_ELEMENTS = re.compile(rb'(?s)(?:[^,"]|"(?:[^"\\]|\\.)*(?:"|\\?\Z))+').findall
_PAIRS = re.compile(rb'(?s)(?:[^;"]|"(?:[^"\\]|\\.)*(?:"|\\?\Z))+').findall
_PAIR = re.compile(rb'([A-Za-z]+)=(?:([^\s",;\\]*)|"((?:[^"\\]|\\.)*)")').fullmatch
_ESCAPED = re.compile(rb"\\(.)").sub
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
            known = keep(self._memo, address, self._look(address), _MEMO_LIMIT)
        return known

    def _look(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self._networks)


def canonical(address: str) -> str:
    """`address`, as IPv4 when it is one written as IPv6: what listens on both sees them so."""
    if address.startswith("::ffff:"):
        mapped = ipaddress.IPv6Address(address).ipv4_mapped
        return str(mapped or address)
    return address


def address_key(address: str) -> str:
    """The bucket of an address: itself, or for IPv6 its /64, which one host holds whole.

    An IPv4 address written as IPv6 (a socket that listens on both) is one like others: all of them share one /64.
    """
    if ":" in address:
        try:
            parsed = ipaddress.IPv6Address(address)
            mapped = parsed.ipv4_mapped
            address = str(mapped or ipaddress.ip_network((int(parsed), 64), strict=False))
        except ValueError:
            return "ip:unknown"
    return "ip:" + address


def _client(entry: bytes) -> str:
    """The address that an entry of X-Forwarded-For or `for=` names, without its port; `UNKNOWN` when it names none.

    SECURITY: the whole entry has to be one. A zone ("fe80::1%x") is free text of whoever wrote it.
    """
    found = _NODE(entry)
    if found is None:
        return UNKNOWN
    try:
        if found[1] is not None:
            return canonical(str(ipaddress.IPv6Address(found[1].decode())))
        parsed = ipaddress.ip_address((found[2] or found[3]).decode())
    except ValueError:
        return UNKNOWN
    return canonical(str(parsed))


def forwarded_client(peer: str, chain: bytes, trusted: Peers) -> str:
    """The client's address: the right-most entry of X-Forwarded-For that no trusted proxy owns.

    SECURITY: read from the right, since everything left of the first untrusted hop was written by the client. What is no
    address there ("unknown", RFC 7239 section 6) makes the client `UNKNOWN`: it is not the proxy that hides it, whose
    address may be one that is let in.
    """
    client = peer
    for entry in reversed(chain.split(b",")):
        named = entry.strip()
        if named:
            client = _client(named)
            if client not in trusted:
                return client
    return client


def forwarded_elements(value: bytes) -> tuple[bytes, bytes, bytes]:
    """(X-Forwarded-For chain, proto, host) told by a `Forwarded` header (RFC 7239): the chain has an entry for each element.

    SECURITY: proto and host are the last element's, the nearest proxy's, alone: what it does not say, an earlier one may have
    invented. For the same reason an element that names no client stands in the chain as `UNKNOWN`.
    """
    chain: list[bytes] = []
    proto = host = b""
    for element in _ELEMENTS(value):
        if not element.strip():
            continue
        pairs: dict[bytes, bytes] = {}
        for pair in _PAIRS(element):
            found = _PAIR(pair.strip())
            if found is not None:
                quoted = found[3]
                pairs[found[1].lower()] = found[2] if quoted is None else _ESCAPED(rb"\1", quoted)
        named = pairs.get(b"for", b"")
        chain.append(named if _NODE(named) else UNKNOWN.encode())
        proto, host = pairs.get(b"proto", b""), pairs.get(b"host", b"")
    return b",".join(chain), proto, host
