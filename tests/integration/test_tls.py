"""TLS to clients: both protocols by ALPN, and nothing for those who speak neither TLS nor its present versions."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import pair
from tests.support.gateway import free_port
from tests.support.poll import poll

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Its port, and the certificate to trust."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = pair(directory)
    port = free_port()
    env = {
        "PYTHONPATH": str(ROOT),
        "ENVIRONMENT": "dev",
        "DRAIN_SECONDS": "0",
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }
    env |= {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
    log = directory / "log"
    with log.open("wb") as sink:
        command = [sys.executable, "-m", "kernel", "run"]
        process = subprocess.Popen(command, env=env, cwd=directory, stdout=sink, stderr=sink)

    def reachable() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as link:
            return link.connect_ex(("127.0.0.1", port)) == 0

    poll(reachable)
    yield port, certificate
    process.terminate()
    assert process.wait(20) == 0, log.read_text()


def test_http_1_over_tls(server: tuple[int, Path]) -> None:
    port, certificate = server
    link = http.client.HTTPSConnection(
        "localhost", port, timeout=5, context=ssl.create_default_context(cafile=str(certificate))
    )
    link.request("GET", "/health/live")
    assert link.getresponse().status == 200
    link.close()


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), ([], None)]
)
def test_the_protocol_is_chosen_by_alpn(
    server: tuple[int, Path], offered: list[str], chosen: str | None
) -> None:
    port, certificate = server
    context = ssl.create_default_context(cafile=str(certificate))
    if offered:
        context.set_alpn_protocols(offered)
    with (
        socket.create_connection(("127.0.0.1", port), 5) as link,
        context.wrap_socket(link, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == chosen


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_are_refused(server: tuple[int, Path]) -> None:
    port, certificate = server
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", port), 5) as link,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        context.wrap_socket(link, server_hostname="localhost")


def test_plain_text_gets_no_answer(server: tuple[int, Path]) -> None:
    port, _ = server
    with socket.create_connection(("127.0.0.1", port), 5) as link:
        link.sendall(b"GET /health/live HTTP/1.1\r\nHost: t\r\n\r\n")
        try:
            answer = link.recv(65536)
        except ConnectionResetError:
            answer = b""
    assert b"HTTP" not in answer
