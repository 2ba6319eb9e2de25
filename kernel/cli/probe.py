"""`gateway check --probe`: is everything that the gateway depends on there? All asked at once."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import NamedTuple
from urllib.parse import urlsplit

from kernel.cli.output import Row, Style, plural, table
from kernel.config import Settings
from kernel.primitives.tls import client_context, explain
from kernel.routing.beside import beside
from kernel.routing.catalog import Service, Trust, destinations

_THREADS = 64


class Failed(Exception):
    """A probe that did not succeed; the message says why in a few words."""


class Target(NamedTuple):
    """Something to reach: `ask` returns what it found, or raises `Failed` or OSError."""

    name: str
    address: str
    ask: Callable[[], str]


def probe(settings: Settings, timeout: float) -> int:
    """Probe everything and print a table. Returns 1 when anything cannot be reached or is not well."""
    results = reached(settings, timeout)
    style = Style(sys.stdout)
    rows = [(style.good if sound else style.bad, *cells) for sound, cells in results]

    def codes(row: Row) -> Row:
        return ("32", "1", "2", "", "2") if row[0] == style.good else ("31", "1", "2", "31", "2")

    failed = sum(not sound for sound, _ in results)
    verdict = (
        f"{failed} of {plural(len(results), 'probe')} failed" if failed else f"all {len(results)} answer"
    )
    lines = "\n".join(f"  {line}" for line in table(rows, codes, style))
    sys.stdout.write(f"\n{lines}\n\ngateway: {style('1;31' if failed else '1;32', verdict)}\n")
    return 1 if failed else 0


def reached(settings: Settings, timeout: float) -> tuple[tuple[bool, Row], ...]:
    """Whether each target is well; its name and address, what was found, and in what time."""
    targets = tuple(_targets(settings, timeout))
    with ThreadPoolExecutor(min(_THREADS, len(targets))) as pool:
        return tuple(pool.map(_try, targets))


def _targets(settings: Settings, timeout: float) -> Iterator[Target]:
    store = settings.redis_url
    if store is not None:
        from kernel.store.address import parse  # noqa: PLC0415

        yield Target("store", str(parse(store)), lambda: asyncio.run(_ask_store(store, timeout)))
    for source in settings.jwt_jwks_url:
        yield Target("key set", source.url, lambda url=source.url: _get(url, "", timeout))  # type: ignore[misc]
    asked = [
        (each.name, each, settings.services[each.name]) for each in destinations(settings.service_catalog)
    ]
    asked += [(each.name, each.service, each.variant.urls) for each in beside(settings.service_catalog)]
    for name, service, urls in asked:
        for url in urls:
            yield Target(name, url, partial(_ask_service, service, url, timeout))


def _ask_service(service: Service, url: str, timeout: float) -> str:
    if service.grpc is not None:
        return _ask_grpc(url, timeout, service.trust)
    return _get(url, service.health, timeout, service.trust)


def _ask_grpc(url: str, timeout: float, trust: Trust | None) -> str:
    """Whether what is at `url` speaks HTTP/2, as gRPC has to: its connection begins with SETTINGS (RFC 9113 section 3.4)."""
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    plain: socket.socket
    if parts.scheme == "unix":
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(timeout)
        plain.connect(parts.path)
    else:
        plain = socket.create_connection(
            (host, parts.port or (443 if parts.scheme == "https" else 80)), timeout
        )
    with plain:
        spoken = plain
        if parts.scheme == "https":
            context = client_context(trust.ca, trust.identity) if trust else client_context()
            context.set_alpn_protocols(["h2"])
            spoken = context.wrap_socket(plain, server_hostname=host)
        with spoken:
            spoken.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            frame = spoken.recv(9)
    if frame[3:4] != b"\x04":
        raise Failed("no HTTP/2, and so no gRPC")
    return "HTTP/2 is spoken"


def _try(target: Target) -> tuple[bool, Row]:
    started = perf_counter()
    try:
        sound, found = True, target.ask()
    except Failed as error:
        sound, found = False, str(error)
    except TimeoutError:
        sound, found = False, "no answer in time"
    except socket.gaierror:
        sound, found = False, "the host name is not known"
    except ssl.SSLError as error:
        sound, found = False, explain(error)
    except OSError as error:
        sound, found = False, (error.strerror or str(error)).lower()
    return sound, (target.name, target.address, found, f"{(perf_counter() - started) * 1000:.0f} ms")


async def _ask_store(url: str, seconds: float) -> str:
    from kernel.store.errors import StoreError  # noqa: PLC0415
    from kernel.store.eviction import eviction_policy  # noqa: PLC0415
    from kernel.store.redis import Store  # noqa: PLC0415

    store = Store(url, timeout=seconds)
    try:
        await store.start()
        info = await store.execute("INFO", "server")
        policy = eviction_policy(await store.execute("INFO", "memory"))
    except StoreError as error:
        raise Failed(str(error).lower() or "no answer") from error
    finally:
        await store.close()
    fields = dict(line.split(":", 1) for line in info.decode().split("\r\n") if ":" in line)
    if "valkey_version" in fields:
        found = f"Valkey {fields['valkey_version']}"
    else:
        found = f"Redis {fields.get('redis_version', 'of an unknown version')}"
    if policy:
        found += f"; WARNING: it evicts keys ({policy}), set maxmemory-policy noeviction"
    return found


def _get(url: str, path: str, timeout: float, trust: Trust | None = None) -> str:
    """GET `path` of the service at `url` (or `url` itself); its status when that is 2xx."""
    target, status, _ = fetch(url, path, timeout, trust)
    return f"GET {target} is {status}"


def fetch(
    url: str, path: str, timeout: float, trust: Trust | None = None, most: int = 0
) -> tuple[str, int, bytes]:
    """GET `path` of what is at `url` (or `url` itself): what was asked for, the status and up to `most` bytes of the body.

    Raises:
        Failed: it is not 2xx, or no HTTP. OSError.
    """
    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    connection: http.client.HTTPConnection
    if parts.scheme == "unix":
        connection = _UnixConnection(parts.path, timeout)
    elif parts.scheme == "https":
        context = client_context(trust.ca, trust.identity) if trust else client_context()
        connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout)
    target = path or parts.path or "/"
    if not path and parts.query:
        target = f"{target}?{parts.query}"
    try:
        connection.request("GET", target, headers={"User-Agent": "bakery-gateway-check"})
        answer = connection.getresponse()
        status, body = answer.status, answer.read(most) if most else b""
    except http.client.HTTPException as error:
        raise Failed(f"no HTTP answer ({type(error).__name__})") from error
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise Failed(f"GET {target} is {status}")
    return target, status, body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
