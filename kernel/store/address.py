"""Where the store is: the URL forms that REDIS_URL takes.

redis://[[user]:password@]host[:6379][/db]
rediss://...                                 the same over TLS; ?ssl_ca_certs=FILE, ?ssl_cert_reqs=none|required
unix://[[user]:password@]/path/to.sock[?db=0]
redis+sentinel://[[user]:password@]host[:26379],host2/service[/db][?sentinel_password=SECRET]
redis+cluster://[[user]:password@]host[:6379],host2
rediss+sentinel://, rediss+cluster://        the same over TLS
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

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
_DEMANDS = ("none", "optional", "required")
_AUTHORITY_END = re.compile("[/?#]")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]+)?")
_LONGEST_SOCKET_PATH = 107  # sun_path, less the NUL at its end
_NO_DATABASE = "what follows the host is not a database number"
_ENCODE = "A password's own @ / ? # are written %40 %2F %3F %23"
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


def tls_flaw(address: Address) -> str:
    """Why the files that the ssl_ options name cannot be used; "" when they can, or there are none."""
    if not address.tls:
        return ""
    connection = address.connection(address.endpoints[0], 1.0)
    assert isinstance(connection, SSLConnection)
    try:
        connection.ssl_context.get()
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "they cannot be read"
        named = ", ".join(sorted(name for name in address.options if name.startswith("ssl_")))
        return f"the files of {named} cannot be used: {str(reason).lower().replace('_', ' ')}"
    return ""


def store_url(url: str | None, host: str, port: int, db: int, password: str | None) -> str:
    """REDIS_URL if it is set, else the URL that REDIS_HOST, REDIS_PORT, REDIS_DB and REDIS_PASSWORD spell."""
    if url:
        return url
    secret = f":{quote(password, safe='')}@" if password else ""
    return f"redis://{secret}{f'[{host}]' if ':' in host else host}:{port}/{db}"


def parse(url: str) -> Address:
    """The address of `url`. Raises AddressError.

    SECURITY: a password may stand anywhere, when somebody has not encoded its `?` or `/`: no message quotes a part of it.
    """
    scheme, _, rest = url.partition("://")
    end = _AUTHORITY_END.search(rest)
    at = end.start() if end else len(rest)
    try:
        return _address(scheme, rest[:at], *rest[at:].partition("?")[::2])
    except AddressError as why:
        if "@" in rest[at:]:
            raise AddressError(f"{why}. {_ENCODE}") from None
        raise


def _address(scheme: str, authority: str, path: str, asked: str) -> Address:
    if scheme not in _SCHEMES:
        raise AddressError(f"the scheme is none of {', '.join(_SCHEMES)}")
    kind, tls = _SCHEMES[scheme]
    if "#" in path or "#" in asked:
        raise AddressError("a fragment (#) has no meaning here")
    try:
        query = dict(parse_qsl(asked, keep_blank_values=True))
    except ValueError:
        raise AddressError("the options cannot be read") from None
    if query.keys() - _OPTIONS:
        raise AddressError(f"an option is unknown; there are {', '.join(sorted(_OPTIONS))}")
    if not tls and query.keys() & _TLS_OPTIONS:
        raise AddressError("ssl_ options need the rediss scheme")
    if query.get("ssl_cert_reqs", "required") not in _DEMANDS:
        raise AddressError(f"ssl_cert_reqs is none of {', '.join(_DEMANDS)}")
    credentials, _, hosts = authority.rpartition("@")
    options: dict[str, Any] = {name: query[name] for name in _TLS_OPTIONS & query.keys()}
    user, _, password = credentials.partition(":")
    options["username"] = unquote(user) or query.get("username")
    options["password"] = unquote(password) or query.get("password")
    if scheme == "unix":
        if hosts:
            raise AddressError("a unix URL has no host: three slashes, as in unix:///run/redis.sock")
        return Address(kind, (_socket_path(path),), options=options | _database(query.get("db", "")))
    nodes = tuple(_node(each, _PORTS[kind]) for each in hosts.split(","))
    pieces = [unquote(piece) for piece in path.strip("/").split("/") if piece]
    if kind == "cluster":
        if pieces or "db" in query:
            raise AddressError("a cluster has no databases and no service name: give hosts only")
        return Address(kind, nodes, tls, options=options)
    if kind == "sentinel":
        if not pieces:
            raise AddressError("the service name is missing, as in redis+sentinel://host:26379/mymaster")
        service, *pieces = pieces
        sentinel = {
            name: query["sentinel_" + name]
            for name in ("username", "password")
            if "sentinel_" + name in query
        }
    else:
        service, sentinel = "", {}
        if len(nodes) != 1:
            raise AddressError("several hosts need the redis+sentinel or redis+cluster scheme")
    if len(pieces) > 1:
        raise AddressError(_NO_DATABASE)
    database = _database(pieces[0] if pieces else query.get("db", ""))
    return Address(kind, nodes, tls, service, options | database, sentinel)


def _socket_path(path: str) -> str:
    plain = unquote(path)
    if not plain or "\0" in plain:
        raise AddressError("the path of the socket is missing, as in unix:///run/redis.sock")
    if len(plain.encode()) > _LONGEST_SOCKET_PATH:
        raise AddressError(f"the path of the socket has more than {_LONGEST_SOCKET_PATH} bytes")
    return plain


def _database(text: str) -> dict[str, int]:
    if not text:
        return {}
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise AddressError(_NO_DATABASE)
    return {"db": int(text)}


def _node(text: str, port: int) -> Node:
    try:
        parts = urlsplit("//" + text)
        host, given = unquote(parts.hostname or ""), parts.port
    except ValueError:
        host, given = "", None
    if not _HOST.fullmatch(host) or given == 0:
        raise AddressError(
            "a host with an optional port is missing or malformed, as in redis:6379 or [fd00::1]:6379"
        )
    return host, port if given is None else given
