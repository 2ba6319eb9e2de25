"""TLS towards services: one context for many replicas, sessions that go on, and reasons that only operators learn."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from kernel.http.problems import UPSTREAM_CONNECT, GatewayError
from kernel.primitives.tls import client_context
from kernel.upstream.balance import Upstream
from tests.support.certificates import pair
from tests.support.gateway import GatewayFactory, gateway_factory, service_env
from tests.support.poll import poll
from tests.support.scripted_upstream import (
    OK,
    Client,
    both_loops,
    eventually,
    relay,
    replies,
    scripted,
    upstream_of,
)

__all__ = ["gateway_factory"]


async def ask(upstream: Upstream) -> Client:
    client = Client()
    await relay(client.x, upstream, b"accept: */*\r\n", 5.0)
    return client


def shows(chain: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context


def reasons(upstream: Upstream) -> list[str]:
    return [reason for _, reason in upstream.tls_failures()]


async def test_all_replicas_share_one_context() -> None:
    urls = [f"https://replica-{number}.test" for number in range(5)]
    async with upstream_of(*urls, "http://plain.test") as upstream:
        contexts = {replica.pool.tls for replica in upstream.replicas[:5]}
        assert len(contexts) == 1
        assert None not in contexts
        assert upstream.replicas[5].pool.tls is None


@both_loops
async def test_new_connections_go_on_with_the_last_session(tmp_path: Path) -> None:
    chain, key = pair(tmp_path)
    tls = client_context(chain.read_bytes())
    async with (
        scripted(replies(OK, close=True), tls=shows(chain, key)) as server,
        upstream_of(f"https://localhost:{server.port}", tls=tls) as upstream,
    ):
        reused = []
        for _ in range(4):
            connection = await upstream.replicas[0].pool.acquire()
            upstream.replicas[0].pool.release(connection)
            reused.append(connection.transport.get_extra_info("ssl_object").session_reused)
            assert (await ask(upstream)).body == b"ok"
            await eventually(lambda: not upstream.replicas[0].pool.size)
        assert reused[0] is False
        assert reused[-1] is True


@both_loops
@pytest.mark.parametrize(
    ("host", "ends", "reason"),
    [
        ("localhost", timedelta(hours=-1), "certificate has expired"),
        ("other.test", timedelta(1), "Hostname mismatch, certificate is not valid for 'localhost'"),
        ("unknown", timedelta(1), "self-signed certificate"),
    ],
)
async def test_the_reason_is_kept_for_operators_and_kept_from_clients(
    host: str, ends: timedelta, reason: str, tmp_path: Path
) -> None:
    chain, key = pair(tmp_path, host=host, ends=ends)
    tls = client_context(b"" if host == "unknown" else chain.read_bytes())
    async with (
        scripted(replies(OK), tls=shows(chain, key)) as server,
        upstream_of(f"https://localhost:{server.port}", tls=tls) as upstream,
    ):
        assert reasons(upstream) == []
        for _ in range(2):
            with pytest.raises(GatewayError) as caught:
                await ask(upstream)
            assert caught.value.problem.kind is UPSTREAM_CONNECT
            assert caught.value.problem.detail == (
                "inventory failed in phase connect: the TLS handshake failed."
            )
        (said,) = reasons(upstream)
        assert said.replace("self signed", "self-signed") == f"its certificate is refused: {reason}"


@both_loops
async def test_a_connection_that_serves_ends_the_matter(tmp_path: Path) -> None:
    chain, key = pair(tmp_path)
    other = pair(tmp_path, "other")
    tls, theirs = client_context(chain.read_bytes()), shows(*other)
    async with (
        scripted(replies(OK), tls=theirs) as server,
        upstream_of(f"https://localhost:{server.port}", tls=tls) as upstream,
    ):
        with pytest.raises(GatewayError):
            await ask(upstream)
        assert len(reasons(upstream)) == 1
        theirs.load_cert_chain(chain, key)  # it has been renewed
        await ask(upstream)
        assert reasons(upstream) == []


@contextlib.contextmanager
def demanding(tls: ssl.SSLContext) -> Iterator[int]:
    """A server that refuses clients without a certificate as OpenSSL does: after what they take for the handshake's end."""
    tls.verify_mode = ssl.CERT_REQUIRED

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError), tls.wrap_socket(connection, True) as spoken:
                    spoken.recv(65536)
                    spoken.sendall(OK)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@both_loops
async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    chain, key = pair(tmp_path)
    theirs = shows(chain, key)
    theirs.load_verify_locations(chain)
    tls = client_context(chain.read_bytes(), chain.read_bytes() + key.read_bytes())
    with demanding(theirs) as port:
        async with upstream_of(
            f"https://localhost:{port}", tls=client_context(chain.read_bytes())
        ) as upstream:
            with pytest.raises(GatewayError):
                await ask(upstream)
        async with upstream_of(f"https://localhost:{port}", tls=tls) as upstream:
            assert (await ask(upstream)).body == b"ok"
            await asyncio.sleep(0)


def answering(tls: ssl.SSLContext) -> http.server.ThreadingHTTPServer:
    """An HTTPS server in a thread of its own, which knows every path."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            pass  # handshakes that fail are what the tests are about

    server = Server(("127.0.0.1", 0), Answer)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    return server


def test_a_gateway_trusts_what_its_file_says_and_tells_operators_why_it_does_not(
    gateway_factory: GatewayFactory, tmp_path: Path
) -> None:
    """Each service is judged by its own authorities, and a failure is told to those who can mend it."""
    good, bad = pair(tmp_path, "good"), pair(tmp_path, "bad")
    config = tmp_path / "gateway.toml"
    config.write_text(
        f'[services.inventory]\npublic = true\nca = "{good[0]}"\n[services.sales]\npublic = true\nca = "{good[0]}"\n'
    )
    with answering(shows(*good)) as well, answering(shows(*bad)) as ill:
        env = service_env("http://127.0.0.1:9") | {
            "GATEWAY_CONFIG": str(config),
            "INVENTORY_SERVICE_URL": f"https://localhost:{well.server_port}",
            "SALES_SERVICE_URL": f"https://localhost:{ill.server_port}",
        }
        gateway = gateway_factory(env)

        def get(path: str) -> tuple[int, bytes]:
            link = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
            link.request("GET", path)
            response = link.getresponse()
            found = response.status, response.read()
            link.close()
            return found

        assert get("/api/v1/inventory/items") == (200, b"ok")
        status, body = get("/api/v1/sales/items")
        assert status == 502
        assert b"the TLS handshake failed" in body
        assert b"signed" not in body
        poll(lambda: "TLS to a service failed" in gateway.log())
        (line,) = (line for line in gateway.log().splitlines() if "TLS to a service failed" in line)
        assert "sales" in line
        assert "its certificate is refused: self" in line

        def reason() -> str:
            service = json.loads(get("/api/v1/health")[1])["services"]["sales"]
            return str(service.get("reason", ""))

        assert poll(reason).startswith("its certificate is refused: self")
        well.shutdown()
        ill.shutdown()
