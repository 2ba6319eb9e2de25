"""Where the store is: the URL forms that REDIS_URL takes.

redis://[[user]:password@]host[:6379][/db]
rediss://...                                 the same over TLS; ?ssl_ca_certs=FILE, ?ssl_cert_reqs=none|required
unix://[[user]:password@]/path/to.sock[?db=0]
redis+sentinel://[[user]:password@]host[:26379],host2/service[/db][?sentinel_password=SECRET]
redis+cluster://[[user]:password@]host[:6379],host2
rediss+sentinel://, rediss+cluster://        the same over TLS
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection

Kind = Literal["single", "sentinel", "cluster"]
Node = tuple[str, int]
Endpoint = Node | str  # a host and port, or the path of a unix socket

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("single", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile"})
_OPTIONS = _TLS_OPTIONS | {"db", "password", "username", "sentinel_password", "sentinel_username"}
_PORTS: dict[Kind, int] = {"single": 6379, "sentinel": 26379, "cluster": 6379}


class AddressError(ValueError):
    """A store URL that cannot be used; the message names what is wrong and never holds the password."""


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed store URL. `endpoints` are the server itself, or the sentinels or cluster nodes to ask first."""

    kind: Kind
    endpoints: tuple[Endpoint, ...]
    tls: bool = False
    service: str = ""
    # What redis-py's connections take beyond the endpoint: db, username, password, ssl_*.
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """The address without its secrets, for logs and `gateway check`."""
        places = ",".join(at if isinstance(at, str) else f"{at[0]}:{at[1]}" for at in self.endpoints)
        return f"{self.kind} {places}" + (f" ({self.service})" if self.service else "")

    def connection(self, endpoint: Endpoint, timeout: float, **more: Any) -> AbstractConnection:
        """An unopened RESP3 connection to `endpoint`; connecting may take `timeout` seconds, reading for ever."""
        options = {
            **self.options,
            "protocol": 3,
            "socket_timeout": None,
            "socket_connect_timeout": timeout,
            "driver_info": None,  # no CLIENT SETINFO: two commands less at every connect
            **more,
        }
        if isinstance(endpoint, str):
            return UnixDomainSocketConnection(path=endpoint, **options)
        host, port = endpoint
        return (SSLConnection if self.tls else Connection)(host=host, port=port, **options)


def store_url(url: str | None, host: str, port: int, db: int, password: str | None) -> str:
    """REDIS_URL if it is set, else the URL that REDIS_HOST, REDIS_PORT, REDIS_DB and REDIS_PASSWORD spell."""
    if url:
        return url
    secret = f":{quote(password, safe='')}@" if password else ""
    return f"redis://{secret}{f'[{host}]' if ':' in host else host}:{port}/{db}"


def parse(url: str) -> Address:
    """The address of `url`. Raises AddressError."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise AddressError(f"scheme {parts.scheme!r} is none of {', '.join(_SCHEMES)}")
    kind, tls = _SCHEMES[parts.scheme]
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(query.keys() - _OPTIONS):
        raise AddressError(f"unknown option {unknown[0]!r}; there are {', '.join(sorted(_OPTIONS))}")
    if not tls and query.keys() & _TLS_OPTIONS:
        raise AddressError("ssl_ options need the rediss scheme")
    credentials, _, hosts = parts.netloc.rpartition("@")
    options: dict[str, Any] = {name: query[name] for name in _TLS_OPTIONS & query.keys()}
    user, _, password = credentials.partition(":")
    options["username"] = unquote(user) or query.get("username")
    options["password"] = unquote(password) or query.get("password")
    if parts.scheme == "unix":
        return Address(kind, (_socket_path(parts),), options=options | _database(query.get("db", "")))
    nodes = tuple(_node(each, _PORTS[kind]) for each in hosts.split(","))
    path = [unquote(piece) for piece in parts.path.strip("/").split("/") if piece]
    if kind == "cluster":
        if path or "db" in query:
            raise AddressError("a cluster has no databases and no service name: give hosts only")
        return Address(kind, nodes, tls, options=options)
    if kind == "sentinel":
        if not path:
            raise AddressError("the service name is missing, as in redis+sentinel://host:26379/mymaster")
        service, *path = path
        sentinel = {
            name: query["sentinel_" + name]
            for name in ("username", "password")
            if "sentinel_" + name in query
        }
    else:
        service, sentinel = "", {}
        if len(nodes) != 1:
            raise AddressError("several hosts need the redis+sentinel or redis+cluster scheme")
    if len(path) > 1:
        raise AddressError(f"{'/'.join(path)!r} is not a database number")
    database = _database(path[0] if path else query.get("db", ""))
    return Address(kind, nodes, tls, service, options | database, sentinel)


def _socket_path(parts: SplitResult) -> str:
    if not parts.path:
        raise AddressError("the path of the socket is missing, as in unix:///run/redis.sock")
    return unquote(parts.path)


def _database(text: str) -> dict[str, int]:
    if not text:
        return {}
    if not text.isdecimal():
        raise AddressError(f"{text!r} is not a database number")
    return {"db": int(text)}


def _node(text: str, port: int) -> Node:
    try:
        parts = urlsplit("//" + text)
        host, given = parts.hostname, parts.port
    except ValueError:
        host, given = None, None
    if not host:
        raise AddressError(f"{text!r} is not a host with an optional port")
    return unquote(host), port if given is None else given
