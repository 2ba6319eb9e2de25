"""`gateway check --probe` against real servers, a real store and nothing at all."""

from __future__ import annotations

import http.server
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import redis

from kernel.cli.probe import probe
from kernel.config import Settings, load
from kernel.server.embedded_store import EmbeddedStore
from tests.support.gateway import free_port, service_env
from tests.support.grpc_service import configured
from tests.support.store import session_store, store_server

__all__ = ["session_store", "store_server"]


class Answer(http.server.BaseHTTPRequestHandler):
    """/health is well, /broken is not, all else is absent."""

    def do_GET(self) -> None:
        self.send_response({"/health": 200, "/keys?v=1": 204, "/broken": 500}.get(self.path, 404))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        request, _ = super().get_request()
        return request, ("local", 0)


class Server(http.server.ThreadingHTTPServer):
    # A probe comes for all services at once: a connection that overflows the backlog is tried again a second later.
    request_queue_size = 64


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def report(
    settings: Settings, capsys: pytest.CaptureFixture[str], timeout: float = 2.0
) -> tuple[int, dict[str, str]]:
    """The exit code, and what was found by name, with its mark."""
    code = probe(settings, timeout)
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r" {2,}", line.strip()) for line in lines if re.match(r"  [✓✗x+] ", line)]
    return code, {f"{row[1]} {row[2]}": f"{row[0]} {row[3]}" for row in rows}


def test_everything_answers(
    url: str, store_server: EmbeddedStore, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = service_env(url) | {"REDIS_URL": store_server.url, "JWT_JWKS_URL": f"{url}/keys?v=1"}
    code, found = report(load(environ), capsys)
    assert code == 0
    assert len(found) == 21
    assert found[f"auth {url}"] == "✓ GET /health is 200"
    assert found[f"key set {url}/keys?v=1"] == "✓ GET /keys?v=1 is 204"
    assert found[f"store single {store_server.socket_path}"].startswith("✓ Valkey ")


def test_what_stands_beside_a_service_is_reached(
    url: str, store_server: EmbeddedStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "gateway.toml").write_text(
        f'[services.sales.canary]\nurl = "{dead}"\npercent = 5\n'
        f'[services.pos.mirror]\nurl = "{url.replace("127.0.0.1", "localhost")}"\npercent = 5\n'
    )
    environ = {"GATEWAY_CONFIG": str(tmp_path / "gateway.toml"), "REDIS_URL": store_server.url}
    code, found = report(load(service_env(url) | environ), capsys)
    assert code == 1
    assert found[f"sales-canary {dead}"] == "✗ connection refused"
    assert found[f"pos-mirror {url.replace('127.0.0.1', 'localhost')}"] == "✓ GET /health is 200"


def test_a_store_that_evicts_keys_is_warned_of(
    store_server: EmbeddedStore, capsys: pytest.CaptureFixture[str]
) -> None:
    def found() -> str:
        settings = load({"REDIS_URL": store_server.url, **service_env(f"http://127.0.0.1:{free_port()}")})
        _, rows = report(settings, capsys)
        return rows[f"store single {store_server.socket_path}"]

    with redis.Redis.from_url(store_server.url) as client:
        assert "evicts" not in found()
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            assert "it evicts keys (allkeys-lru), set maxmemory-policy noeviction" in found()
            limit = client.config_get("maxmemory")["maxmemory"]
            client.config_set("maxmemory", 0)  # what is never full throws nothing away
            assert "evicts" not in found()
            client.config_set("maxmemory", limit)
        finally:
            client.config_set("maxmemory-policy", "noeviction")


def test_what_is_wrong_is_told_for_each_replica(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gateway.toml").write_text('[services.pos]\nhealth = "/broken"\n')
    dead = f"http://127.0.0.1:{free_port()}"
    nowhere = "http://nowhere.invalid"
    environ = service_env(url) | {
        "GATEWAY_CONFIG": str(tmp_path / "gateway.toml"),
        "SALES_SERVICE_URL": f"{url},{dead}",
        "ORDERS_SERVICE_URL": nowhere,
        "AUTH_SERVICE_URL": url.replace("http", "https"),
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}",
    }
    code, found = report(load(environ), capsys)
    assert code == 1
    assert found[f"pos {url}"] == "✗ GET /broken is 500"
    assert found[f"sales {url}"] == "✓ GET /health is 200"
    assert found[f"sales {dead}"] == "✗ connection refused"
    assert found[f"orders {nowhere}"] == "✗ the host name is not known"
    assert found[f"auth {url.replace('http', 'https')}"].startswith("✗ ")
    assert next(text for name, text in found.items() if name.startswith("store")).startswith("✗ ")


def test_silence_and_garbage_are_failures(capsys: pytest.CaptureFixture[str]) -> None:
    def babble(server: socket.socket) -> None:
        with server.accept()[0] as peer:
            peer.recv(1000)
            peer.sendall(b"SSH-2.0-OpenSSH\r\n")

    with socket.create_server(("127.0.0.1", 0)) as mute, socket.create_server(("127.0.0.1", 0)) as garbled:
        silent, garbage = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in (mute, garbled))
        thread = threading.Thread(target=babble, args=(garbled,))
        thread.start()
        elsewhere = service_env(f"http://127.0.0.1:{free_port()}")
        settings = load(elsewhere | {"SALES_SERVICE_URL": silent, "POS_SERVICE_URL": garbage})
        code, found = report(settings, capsys, timeout=0.2)
        thread.join()
    assert code == 1
    assert found[f"sales {silent}"] == "✗ no answer in time"
    assert found[f"pos {garbage}"] == "✗ no HTTP answer (BadStatusLine)"


def test_a_service_on_a_unix_socket_is_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.sock"
    with UnixServer(str(path), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        elsewhere = service_env(f"http://127.0.0.1:{free_port()}")
        _, found = report(load(elsewhere | {"SALES_SERVICE_URL": f"unix://{path}"}), capsys)
        server.shutdown()
    assert found[f"sales unix://{path}"] == "✓ GET /health is 200"


def test_a_grpc_service_is_asked_for_http2(
    url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    there = f"grpc://127.0.0.1:{port}"
    try:
        _, found = report(load(service_env(url) | configured(tmp_path, there, url)), capsys)
    finally:
        server.stop(0).wait()
    assert found[f"ovens {there}"] == "✓ HTTP/2 is spoken"
    assert found[f"ovens {url}"] == "✗ no HTTP/2, and so no gRPC"
