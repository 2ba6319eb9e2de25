"""Redirects of a service that takes the Host it is sent for its public name, as FastAPI does for a path without its slash."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar
from urllib.parse import urljoin

import pytest
from websockets.asyncio.server import ServerConnection, serve

from kernel.upstream.request_headers import host_line
from kernel.upstream.websocket import Times, connect
from tests.support.gateway import GatewayFactory, gateway_factory, service_env
from tests.support.scripted_upstream import Client, Peer, both_loops, relay, scripted, upstream_of

__all__ = ["gateway_factory"]

# The fast reader takes the first, the parser the second.
FRAMED = {"whole": b"content-length: 0\r\n\r\n", "chunked": b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"}


@both_loops
@pytest.mark.parametrize("framing", FRAMED.values(), ids=FRAMED)
async def test_a_location_at_a_replica_is_told_without_it(framing: bytes) -> None:
    async def script(peer: Peer) -> None:
        while True:
            head = await peer.request()
            host = head.partition(b"host: ")[2].partition(b"\r\n")[0]
            lines = b"Location: http://%b/items/?a=1\r\nCONTENT-LOCATION:  http://%b/items/7 \r\n" % (
                host,
                host,
            )
            await peer.send(b"HTTP/1.1 307 Temporary Redirect\r\n" + lines + framing)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        for _ in range(2):
            client = Client(path=b"/items")
            await relay(client.x, upstream, b"accept: */*\r\n", 5.0)
            assert client.status == 307
            told = [value for name, value in client.headers if name.endswith(b"location")]
            assert told == [b"/items/?a=1", b"/items/7"]


@both_loops
@pytest.mark.parametrize("framing", FRAMED.values(), ids=FRAMED)
async def test_any_other_is_passed_on_as_it_came(framing: bytes) -> None:
    answer = b"HTTP/1.1 302 Found\r\nlocation: https://pay.example.com/x\r\n" + framing

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    async with scripted(script) as server, upstream_of(server.url) as upstream:
        client = Client()
        await relay(client.x, upstream, b"accept: */*\r\n", 5.0)
        assert (b"location", b"https://pay.example.com/x") in client.headers


@pytest.mark.parametrize("host", ["api.example.com:8443", "api.example.com"])
async def test_a_websocket_is_sent_the_clients_host_where_the_service_wants_it(host: str) -> None:
    seen: list[str] = []

    async def echo(socket: ServerConnection) -> None:
        assert socket.request is not None
        seen.append(socket.request.headers["Host"])

    async with serve(echo, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        for preserve_host in (True, False):
            async with upstream_of(url, preserve_host=preserve_host) as upstream:
                client = Client()
                client.x.captured[b"host"] = host.encode()
                lines = b"accept: */*\r\n"
                if preserve_host:
                    lines = host_line(client.x, upstream.stand_in) + lines
                socket = await connect(upstream, b"/ws", lines, [], 1024, Times(5, 5))
                await socket.close(1000, "")
        assert seen == [host, url.removeprefix("http://")]


class Slashes(http.server.BaseHTTPRequestHandler):
    """Starlette's `redirect_slashes`: a path without its slash leads to the one with it, at the Host of the request."""

    protocol_version = "HTTP/1.1"
    hosts: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        host = self.headers["Host"]
        self.hosts.append(host)
        if self.path.endswith("/"):
            self.send_response(200)
        else:
            self.send_response(307)
            self.send_header("Location", f"http://{host}{self.path}/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def service() -> Iterator[tuple[str, list[str]]]:
    """Its URL, and the Host of each request it gets."""
    hosts: list[str] = []
    handler = type("Handler", (Slashes,), {"hosts": hosts})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", hosts
        server.shutdown()


def get(port: int, path: str, host: str) -> tuple[int, str]:
    """Status and Location."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    link.request("GET", path, headers={"Host": host})
    response = link.getresponse()
    response.read()
    link.close()
    return response.status, response.headers.get("Location", "")


def test_a_redirect_for_a_slash_leads_back_to_the_gateway(
    gateway_factory: GatewayFactory, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(
        "[services.inventory]\npublic = true\n[services.sales]\npublic = true\npreserve_host = true\n"
    )
    with service() as (url, hosts):
        gateway = gateway_factory(service_env(url) | {"GATEWAY_CONFIG": str(config)})
        status, location = get(gateway.port, "/api/v1/inventory/items", "api.example.com")
        assert (status, location) == (307, "/api/v1/inventory/items/")
        followed = urljoin("https://api.example.com/api/v1/inventory/items", location)
        assert followed == "https://api.example.com/api/v1/inventory/items/"
        assert get(gateway.port, location, "api.example.com")[0] == 200
        own = url.removeprefix("http://")
        assert set(hosts) == {own}
        # Where the service is to know its public name, it is told, and its own calls from the gateway are not changed.
        hosts.clear()
        for host in ("api.example.com", "api.example.com:8443"):
            assert get(gateway.port, "/api/v1/sales/items", host) == (
                307,
                f"http://{host}/api/v1/sales/items/",
            )
        assert (
            {"api.example.com", "api.example.com:8443"}
            <= set(hosts)
            <= {"api.example.com", "api.example.com:8443", own}
        )
