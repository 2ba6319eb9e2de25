"""Kinds of values with hosts in them: host names, origins, URLs.

SECURITY: a URL may carry a password, so no message here quotes one that has a user part.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from kernel.config.values import Kind, listed, quote

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_STORE_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_PORTS = {"http": 80, "https": 443, "grpc": 0}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_host(name: str) -> bool:
    return bool(len(name) <= 253 and _NAME.fullmatch(name)) or _is_address(name)


def _host(value: str) -> str:
    lowered = value.lower()
    if not _is_host(lowered):
        raise ValueError(f"{quote(value)} is not a host name or address (it has no scheme and no port)")
    return lowered


HOST = Kind("host name or address", _host)


def _host_pattern(value: str) -> str:
    lowered = value.lower()
    name = lowered.removeprefix("*.")
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if not _is_host(bare) or (name != lowered and _is_address(bare)):
        raise ValueError(f"{quote(value)} is not a host name (it has no scheme and no port)")
    return f"[{bare}]" if ":" in bare else lowered


HOST_PATTERN = Kind("host name or `*.example.com`", _host_pattern)


def _address(value: str) -> str:
    if value.lower() == "localhost":
        return "127.0.0.1"
    if not _is_address(value):
        raise ValueError(f"{quote(value)} is not an IP address")
    return value


ADDRESS = Kind("IP address or `localhost`", _address)


def _split(value: str, *schemes: str) -> SplitResult:
    """`value` as a URL with one of `schemes` and a sound authority."""
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("the URL has blanks, control or non-ASCII characters")
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        raise ValueError("the URL has a malformed host or port") from None
    if url.scheme not in schemes or "://" not in value:
        raise ValueError(f"the URL must start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if url.scheme != "unix":
        if not _is_host((url.hostname or "").lower()):
            raise ValueError("the URL has no sound host name")
        if port == 0 or url.netloc.endswith(":"):
            raise ValueError("the URL has a malformed host or port")
    return url


def _authority(url: SplitResult, value: str) -> tuple[str, str]:
    """(host, port) of a URL that has nothing else: IPv6 in brackets, the scheme's own port left out."""
    if "@" in url.netloc:
        raise ValueError("the URL must not have a user or password")
    if url.path not in {"", "/"} or "?" in value or "#" in value:
        raise ValueError(f"{quote(value)} has more than scheme, host and port")
    name = (url.hostname or "").lower()
    port = "" if url.port in {None, _PORTS[url.scheme]} else f":{url.port}"
    return f"[{name}]" if ":" in name else name, port


def _origin(value: str) -> str:
    """As browsers send it (RFC 6454 section 6.1), so that a comparison of bytes decides."""
    if value == "*":
        return value
    wildcard = "*." if "://*." in value else ""
    url = _split(value.replace("://*.", "://", 1), "http", "https")
    name, port = _authority(url, value)
    if wildcard and (_is_address(name.strip("[]")) or "." not in name):
        raise ValueError(
            f"{quote(value)} allows too much: a wildcard stands before a domain such as example.com"
        )
    return f"{url.scheme}://{wildcard}{name}{port}"


ORIGIN = Kind("origin, `https://*.example.com` or `*`", _origin)


def _service_url(value: str) -> str:
    """Paths go through unchanged, so that a service's URL has none."""
    url = _split(value, "http", "https", "unix", "grpc")
    if url.scheme == "grpc" and url.port is None:
        raise ValueError("a grpc URL names its port: grpc://host:50051")
    if url.scheme == "unix":
        if url.netloc or len(url.path) < 2 or url.query or url.fragment:
            raise ValueError("a unix URL is unix:///absolute/path")
        return value
    name, port = _authority(url, value)
    return f"{url.scheme}://{name}{port}"


SERVICE_URL = Kind("URL: http, https, unix or grpc", _service_url)


def _base_url(value: str) -> str:
    url = _split(value, "http", "https")
    if "@" in url.netloc or "?" in value or "#" in value:
        raise ValueError("the URL must not have a user, password, query or fragment")
    return value.rstrip("/")


BASE_URL = Kind("URL: http or https", _base_url)


def _contact(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._~:/?#@!$&'*+,;=%\[\] -]{3,200}", value):
        raise ValueError(f"{quote(value)} is not an e-mail address or URL")
    return value


CONTACT = Kind("e-mail address or URL", _contact)


def _replicas(value: str) -> tuple[str, ...]:
    urls = listed(SERVICE_URL).parse(value)
    if not urls:
        raise ValueError("no URL is given")
    return urls


REPLICAS = Kind("URL (http, https, unix, grpc) or several, comma-separated", _replicas)


class KeySource(Struct, frozen=True):
    """Where a JWKS is fetched. `issuer`: the only `iss` its keys may sign for; None: any configured one."""

    url: str
    issuer: str | None = None


def _key_source(value: str) -> KeySource:
    issuer, separator, url = value.partition("=")
    if not separator or "://" in issuer:
        issuer, url = "", value
    split = _split(url, "http", "https")
    if "@" in split.netloc or split.fragment:
        raise ValueError("the URL must not have a user, password or fragment")
    return KeySource(url, issuer or None)


KEY_SOURCE = Kind("URL or `issuer=URL`", _key_source)


def _store_url(value: str) -> str:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("the URL has blanks, control or non-ASCII characters")
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in _STORE_SCHEMES or not rest.strip("/"):
        schemes = ", ".join(f"{scheme}://" for scheme in _STORE_SCHEMES)
        raise ValueError(f"the URL must start with one of {schemes} and name a server")
    return value


STORE_URL = Kind("URL: redis, rediss, unix, redis+sentinel, redis+cluster", _store_url)
